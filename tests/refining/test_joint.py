"""All layers together: the loss by its definition, what moves and what does not, stopped and gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gqasearch.evaluation import evaluate_quality, model_runner
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import Parent, layers_replaced
from gqasearch.models.loading_on_demand import load_on_demand
from gqasearch.refining import Descent, GroupedParent, Joint, Streams
from gqasearch.refining.joint import joint_loss, mean_loss
from tests.refining.cases import THIRDS, blocks_of, converter_of, copied_heads, state_of, untouched
from tests.samples import logits_of
from tests.tiny_encoders import encoder_parent, masked_blocks
from tests.tiny_models import save_checkpoint, tiny_model, tiny_parent

FEW = Joint(steps=8, joint_steps=12, joint_rate=1e-3, validate=False)


def test_the_loss_is_the_kl_of_logits_by_hand(tmp_path: Path) -> None:
    """Padding is no target and changes nothing."""
    parent = tiny_parent("llama")
    blocks, converter = blocks_of(parent, blocks=4, padded=True), converter_of(parent, tmp_path)
    layers = {index: converter.merged_layer(THIRDS, index) for index in range(2)}
    model = GroupedParent(parent, THIRDS, layers)
    pairs = list(zip(blocks.batches(4), blocks.targets(4), strict=True))
    (ids, mask), targets = pairs[0]
    known = logits_of(parent, blocks)[:, :-1].double().log_softmax(-1)
    with layers_replaced(parent, converter.tied_layers(THIRDS)):
        own = logits_of(parent, blocks)[:, :-1].double().log_softmax(-1)
    kl = (known.exp() * (known - own)).sum(-1)[blocks.mask[:, 1:]]
    with torch.no_grad():
        loss = float(joint_loss(model, ids, mask, targets))
    assert loss == pytest.approx(float(kl.mean()), rel=1e-4)
    assert mean_loss(model, pairs) == pytest.approx(float(kl.mean()), rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_it_goes_further_than_layers_alone(family: str, tmp_path: Path) -> None:
    parent = tiny_parent(family)
    before, blocks, converter = state_of(parent), blocks_of(parent, padded=True), converter_of(parent, tmp_path)
    alone = converter.refine(THIRDS, blocks, Descent(steps=8, validate=False))
    together = converter.refine(THIRDS, blocks, Joint(steps=8, joint_steps=60, joint_rate=2e-3, validate=False))
    runners = {"alone": converter.runner(THIRDS, alone), "together": converter.runner(THIRDS, together)}
    _, found = evaluate_quality(model_runner(parent.model), runners, blocks)
    assert found["together"].kl < 0.97 * found["alone"].kl
    assert untouched(parent, before)


def test_an_encoder_learns_its_masked_tokens(tmp_path: Path) -> None:
    parent, blocks = encoder_parent("bert"), masked_blocks(padded=True)
    converter = converter_of(parent, tmp_path, "mean")
    grouping = Grouping.uniform(LayerGrouping.neighbours(6, 2), 2)
    refined = converter.refine(grouping, blocks, FEW)
    runners = {"plain": converter.runner(grouping), "refined": converter.runner(grouping, refined)}
    _, found = evaluate_quality(model_runner(parent.model), runners, blocks)
    assert found["refined"].kl < found["plain"].kl


def test_layers_in_which_nothing_is_shared_stay_the_parents(tmp_path: Path) -> None:
    parent = tiny_parent("llama", layers=3)
    grouping = Grouping((LayerGrouping.neighbours(6, 2), LayerGrouping.singletons(6), LayerGrouping.neighbours(6, 3)))
    assert set(converter_of(parent, tmp_path).refine(grouping, blocks_of(parent), FEW)) == {0, 2}
    whole = Grouping.uniform(LayerGrouping.singletons(6), 3)
    assert FEW.total_steps(whole) == 0 and not converter_of(parent, tmp_path / "none").refine(
        whole, blocks_of(parent), FEW
    )


def test_where_nothing_was_lost_nothing_is_moved(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    pairs = Grouping.uniform(LayerGrouping.neighbours(6, 3), 2)
    with layers_replaced(parent, {index: copied_heads(parent.layer(index)) for index in range(2)}):
        converter = converter_of(parent, tmp_path, "mean")
        layers = {index: converter.merged_layer(pairs, index) for index in range(2)}
        assert FEW.join(parent, pairs, layers, blocks_of(parent), lambda: None) is layers


def test_weights_on_disk_give_the_same(tmp_path: Path) -> None:
    model = tiny_model("llama")
    save_checkpoint(model, tmp_path / "model")
    found = []
    for parent in (
        Parent.from_model(model),
        Parent.from_model(load_on_demand(tmp_path / "model", torch.float32, "cpu", room=0)),
    ):
        found.append(converter_of(parent, tmp_path / str(len(found))).refine(THIRDS, blocks_of(parent), FEW))
    for index in range(2):
        assert torch.equal(found[0][index].q, found[1][index].q) and torch.equal(found[0][index].v, found[1][index].v)


def test_stopped_among_the_joint_steps_the_layers_are_not_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, folder = tiny_parent("llama"), tmp_path / "refined"
    blocks, converter = blocks_of(parent), converter_of(parent, tmp_path / "statistics")
    wanted = converter.refine(THIRDS, blocks, FEW)
    total, seen = FEW.total_steps(THIRDS), []

    def stop(done: int, of: int) -> None:
        seen.append((done, of))
        if done == total - 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        converter.refine(THIRDS, blocks, FEW, folder=folder, progress=stop)
    assert seen[-1] == (total - 5, total) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    monkeypatch.setattr(Descent, "refine_layer", lambda *_: pytest.fail("a layer was fitted again"))
    monkeypatch.setattr(Streams, "__init__", lambda *_: pytest.fail("the text passed the layers again"))
    found = converter.refine(THIRDS, blocks, FEW, folder=folder)
    monkeypatch.setattr(Joint, "join", lambda *_: pytest.fail("it was joined again"))
    again = converter.refine(THIRDS, blocks, FEW, folder=folder)
    for index in range(2):
        assert torch.equal(found[index].q, wanted[index].q) and torch.equal(again[index].q, wanted[index].q)


@pytest.mark.parametrize(("name", "value"), [("joint_steps", 0), ("joint_blocks", 0), ("joint_rate", 0.0)])
def test_bad_parameters_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        Joint(**{name: value})
