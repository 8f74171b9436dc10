"""What is measured through a family's own modules: calibration, tied heads, refined outputs, whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gqasearch.calibration import collect
from gqasearch.config import build_config
from gqasearch.evaluation import Converter, evaluate_quality, model_runner
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import Parent, layers_replaced, read_config
from gqasearch.refining import Outputs
from gqasearch.run import run
from gqasearch.testing import InMemoryStatistics
from tests.matrix import sampled
from tests.models.test_families import attend
from tests.samples import logits_of, random_blocks, text_file
from tests.tiny_models import save_checkpoint, tiny_model, tiny_parent

WRITTEN_AS = {
    "gpt_neox": "PhiForCausalLM",
    "falcon": "PhiForCausalLM",
    "opt": "RaggedOPTForCausalLM",
    "gpt2": "RaggedGPT2ForCausalLM",
}
UNGROUPED = tuple(WRITTEN_AS)


def output_bias(parent: Parent, layer: int) -> Tensor:
    """(D,), or 0 where W_o has none."""
    name = parent.family.tensor_name(layer, "o.bias")
    return dict(parent.model.named_parameters()).get(name, torch.zeros(())).detach()


def calls(parent: Parent, layer: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Stream that enters one decoder layer and input of its attention, (T, D) each, for one unpadded block."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[name] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

        return hook

    path = parent.family.attention_path(layer)
    modules = {"x": parent.model.get_submodule(path), "stream": parent.model.get_submodule(path.rpartition(".")[0])}
    handles = [m.register_forward_pre_hook(note(name), with_kwargs=True) for name, m in modules.items()]
    with torch.no_grad():
        parent.model(input_ids=ids[None])
    for handle in handles:
        handle.remove()
    return seen["stream"], seen["x"]


@pytest.mark.parametrize("family", UNGROUPED)
def test_collected_statistics(family: str, tmp_path: Path) -> None:
    """Against blocks run one by one, unpadded, through attention computed from the weights by head."""
    parent = tiny_parent(family)
    blocks = random_blocks(parent.config["vocab_size"], padded=True)
    for index, found in enumerate(collect(parent, blocks, tmp_path, batch_blocks=4)):
        weights = parent.layer(index)
        bias = output_bias(parent, index)
        rows, after = [], []
        for ids, mask in zip(blocks.ids, blocks.mask, strict=True):
            stream, x = calls(parent, index, ids[mask])
            rows.append(x[0])
            after.append(stream[0] + attend(x, weights)[0] + bias)
        x = torch.cat(rows)
        assert found.tokens == blocks.tokens == len(x)
        torch.testing.assert_close(found.second_moment.float(), x.T @ x / len(x), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.mean.float(), x.mean(0), rtol=1e-3, atol=1e-4)
        residual = torch.cat(after).square().sum(1).mean().view(1)
        torch.testing.assert_close(found.residual_energy.float(), residual, rtol=1e-4, atol=0)


@pytest.mark.parametrize("family", UNGROUPED)
def test_tied_heads_run_and_refined_outputs_help(family: str, tmp_path: Path) -> None:
    parent = tiny_parent(family)
    blocks = random_blocks(parent.config["vocab_size"], blocks=20)
    before = logits_of(parent, blocks)
    statistics = InMemoryStatistics(list(collect(parent, blocks, tmp_path)))
    grouping = Grouping.uniform(LayerGrouping.neighbours(6, 2), 2)
    converters = {name: Converter(parent, make_merge(name), lambda: statistics) for name in ("mean", "optimal")}
    runners = {name: converter.runner(grouping) for name, converter in converters.items()}
    refined = converters["optimal"].refine(grouping, blocks, Outputs(validate=False))
    runners["outputs"] = converters["optimal"].runner(grouping, refined)
    _, found = evaluate_quality(model_runner(parent.model), runners, blocks)
    assert found["outputs"].kl < found["optimal"].kl < found["mean"].kl
    assert torch.equal(logits_of(parent, blocks), before)


@pytest.mark.parametrize("family", UNGROUPED)
def test_refined_outputs_leave_their_bias_out(family: str, tmp_path: Path) -> None:
    """One grouped layer: as good as lstsq on the parent's attention output without its bias."""
    parent = tiny_parent(family)
    blocks = random_blocks(parent.config["vocab_size"], blocks=20)
    statistics = InMemoryStatistics(list(collect(parent, blocks, tmp_path)))
    converter = Converter(parent, make_merge("optimal"), lambda: statistics)
    grouping = Grouping((LayerGrouping.neighbours(6, 2), LayerGrouping.singletons(6)))
    projection = parent.model.get_submodule(parent.family.tensor_name(0, "o.weight").removesuffix(".weight"))
    seen: list[Tensor] = []
    handle = projection.register_forward_hook(lambda _module, args, out: seen.extend((args[0], out)))
    logits_of(parent, blocks)
    with layers_replaced(parent, converter.tied_layers(grouping)):
        logits_of(parent, blocks)
    handle.remove()
    bias = output_bias(parent, 0)
    wanted, z = (seen[1] - bias).flatten(0, 1).double(), seen[2].flatten(0, 1).double()
    refined = (
        converter.refine(grouping, blocks, Outputs(ridge=1e-9, validate=False))[0].o.transpose(0, 1).flatten(1).double()
    )
    least = (wanted - z @ torch.linalg.lstsq(z, wanted).solution).square().sum()
    assert float((wanted - z @ refined.T).square().sum()) == pytest.approx(float(least), rel=1e-3)


@pytest.mark.parametrize("family", sampled(UNGROUPED, UNGROUPED[:1]))
def test_a_run_ends_with_figures_and_a_checkpoint(family: str, tmp_path: Path) -> None:
    settings = {
        "model": str(save_checkpoint(tiny_model(family), tmp_path / "model")),
        "calibration_text": str(text_file(tmp_path)),
        "method_parameters": {"population": 4, "offspring": 4, "generations": 2},
        "block_length": 32,
        "calibration_tokens": 600,
        "search_tokens": 300,
        "evaluation_tokens": 300,
    }
    folder = run(build_config(settings), tmp_path / "run")
    metrics = json.loads(folder.metrics.read_text())
    assert 0 < metrics["results"]["converted"]["kl"] < metrics["results"]["neighbour"]["kl"]
    assert folder.report.is_file()
    assert read_config(folder.model)["architectures"] == [WRITTEN_AS[family]]
