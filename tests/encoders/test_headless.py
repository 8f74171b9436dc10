"""Encoders without a head: their hidden states stand where others have predictions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel
from typer.testing import CliRunner

from gqasearch.calibration import NO_TARGET, collect, make_blocks
from gqasearch.checkpoints.ragged_encoders import ENCODER_NAMES
from gqasearch.checkpoints.remote import modeling_ragged_bert
from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.embedded import Document
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter, ParentLayers, Pooling, evaluate_hidden, model_runner, pooling_of
from gqasearch.fitness import FitnessContext, make_fitness
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import read_grouping
from gqasearch.merging import make_merge
from gqasearch.models import FAMILIES, Parent, layers_replaced, load_parent, tie_heads
from gqasearch.run import run
from gqasearch.steps import Workspace
from gqasearch.testing import InMemoryStatistics
from tests.checkpoints.convert import reference, stored_tensors
from tests.checkpoints.uneven import ROUNDING, UNEVEN, write
from tests.matrix import sampled
from tests.samples import random_text, text_file
from tests.tiny_encoders import HEADLESS, encoder_parent, encoder_tokenizer, save_encoder, tiny_encoder, whole_blocks

SINGLE, SHARED = (Grouping.from_labels([row] * 2) for row in (list(range(6)), [0] * 6))


def hidden_of(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) as transformers gives them."""
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return found


def test_every_headless_encoder_has_its_class() -> None:
    families = [family for family in FAMILIES if family.objective == "hidden-states"]
    for architecture in [name for family in families for name in family.architectures]:
        assert hasattr(modeling_ragged_bert, f"Ragged{ENCODER_NAMES[architecture]}Model")
    assert {family.name for family in families} == {name.removesuffix("-headless") for name in HEADLESS}


@pytest.mark.parametrize("family", HEADLESS)
def test_a_layer_at_a_time_it_computes_what_transformers_computes(family: str) -> None:
    parent, blocks = encoder_parent(family), whole_blocks(padded=True)
    wanted = hidden_of(parent.model, blocks.ids, blocks.mask)[blocks.mask]
    runner = ParentLayers(parent)
    torch.testing.assert_close(runner.climbed(blocks.ids, blocks.mask)[blocks.mask], wanted, atol=2e-6, rtol=0)
    torch.testing.assert_close(runner(blocks.ids, blocks.mask)[blocks.mask], wanted, atol=2e-6, rtol=0)
    torch.testing.assert_close(runner.predict(wanted[:100]), wanted[:100], atol=0, rtol=0)


@pytest.mark.parametrize(
    "family", sampled([*HEADLESS, "xlm-roberta-headless"], ["bert-headless", "distilbert-headless"])
)
def test_written_checkpoint_equals_parent_with_tied_heads(family: str, tmp_path: Path) -> None:
    parent = load_parent(str(save_encoder(tiny_encoder(family), tmp_path / "source")))
    layout = write(parent, tmp_path / "source", tmp_path / "out", UNEVEN, "auto")
    assert (layout.name, layout.kv_heads_per_layer) == ("ragged", (2, 4))
    model, info = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True, output_loading_info=True)
    assert not any(info.values()), info
    blocks = whole_blocks(padded=True)
    with torch.no_grad(), reference(parent, UNEVEN) as tied:
        wanted = hidden_of(tied, blocks.ids, blocks.mask)[blocks.mask]
    assert float((hidden_of(model.eval(), blocks.ids, blocks.mask)[blocks.mask] - wanted).abs().max()) <= ROUNDING
    assert float((hidden_of(parent.model, blocks.ids, blocks.mask)[blocks.mask] - wanted).abs().max()) > 0.1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: feature-extraction" in card and "model = AutoModel.from_pretrained(" in card


@pytest.mark.parametrize(("prefix", "pooled"), [("bert.", True), ("", False)])
def test_names_with_the_models_own_and_files_without_a_pooler(prefix: str, pooled: bool, tmp_path: Path) -> None:
    folder = save_encoder(tiny_encoder("bert-headless"), tmp_path / "source")
    tensors = load_file(folder / "model.safetensors")
    kept = {f"{prefix}{name}": tensor for name, tensor in tensors.items() if pooled or not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    parent = load_parent(str(folder))
    assert (getattr(parent.model, "pooler", None) is not None) == pooled
    write(parent, folder, tmp_path / "out", UNEVEN, "auto")
    assert stored_tensors(tmp_path / "out").keys() == kept.keys()
    assert torch.equal(parent.layer(1).k, tensors["encoder.layer.1.attention.self.key.weight"].view(6, 8, 48))


def test_every_token_is_a_target() -> None:
    documents = [Document("a", random_text(3000))]
    tokenizer = encoder_tokenizer()
    plain, some = (
        make_blocks(documents, tokenizer, 32, 2000, "test", "hidden-states", masked_blocks=share)
        for share in (0.0, 0.5)
    )
    assert plain.labels is not None and torch.equal(plain.labels != NO_TARGET, plain.mask)
    assert torch.equal(plain.text, plain.ids) and torch.equal(some.text, plain.ids)
    assert 0.02 < float((some.ids != plain.ids).float().mean()) < 0.12  # half of 15%
    assert sum(targets.count for targets in plain.targets(4)) == plain.tokens
    tokenizer.mask_token = None
    assert (
        make_blocks(documents, tokenizer, 32, 2000, "test", "hidden-states", masked_blocks=0.0).tokens == plain.tokens
    )


def test_the_error_is_that_of_hidden_states(tmp_path: Path) -> None:
    """Against transformers' own, and the fitness against the evaluation."""
    parent, blocks = encoder_parent("bert-headless"), whole_blocks(padded=True)
    statistics = InMemoryStatistics(list(collect(parent, whole_blocks(blocks=20), tmp_path)))
    converter = Converter(parent, make_merge("optimal"), lambda: statistics)
    models = {"uneven": converter.runner(UNEVEN), "whole": model_runner(parent.model)}
    own, found = evaluate_hidden(ParentLayers(parent), models, blocks, batch_blocks=2)
    layers = {index: tie_heads(converter.merged(index, layer), layer, 1) for index, layer in enumerate(UNEVEN)}
    wanted = hidden_of(parent.model, blocks.ids, blocks.mask)[blocks.mask].double()
    with layers_replaced(parent, layers):
        got = hidden_of(parent.model, blocks.ids, blocks.mask)[blocks.mask].double()
    error = (((got - wanted) ** 2).sum(1) / (wanted**2).sum(1)).mean()
    assert found["uneven"].hidden_error == pytest.approx(float(error), rel=1e-4)
    assert own.hidden_error == 0 and found["whole"].hidden_error < 1e-10 and own.targets == blocks.tokens
    shares = blocks.mask.sum(1) / blocks.tokens
    assert np.dot(found["uneven"].hidden_error_blocks, shares.numpy()) == pytest.approx(float(error), rel=1e-4)
    context = FitnessContext(parent, make_merge("optimal"), lambda: statistics, lambda: blocks, lambda: blocks)
    values = make_fitness("hidden-error").prepare(context).evaluate([SINGLE, UNEVEN, SHARED])
    assert values[0] == pytest.approx(0, abs=1e-10) and values[1] == pytest.approx(float(error), rel=1e-4)
    assert values[1] < values[2]


def test_pooling_of_a_folder(tmp_path: Path) -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, -4.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])

    def pooled(**said: Any) -> Tensor:
        (tmp_path / "1_Pooling").mkdir(exist_ok=True)
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(said))
        return pooling_of(tmp_path)(hidden, mask)[0]

    def unit(*values: float) -> Tensor:
        return torch.tensor(values) / math.hypot(*values)

    assert torch.allclose(pooling_of(tmp_path)(hidden, mask)[0], unit(2, -1))
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert pooling_of(tmp_path) == Pooling()
    modules.append({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert torch.allclose(pooled(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False), unit(1, 2))
    assert torch.allclose(pooled(pooling_mode_mean_tokens=True), unit(2, -1))
    assert torch.allclose(pooled(pooling_mode="max"), unit(3, 2))
    assert torch.allclose(pooled(pooling_mode="lasttoken"), unit(3, -4))
    assert torch.allclose(pooled(pooling_mode="weightedmean"), unit(7, -6))
    assert torch.allclose(pooled(pooling_mode=["cls", "mean"]), unit(1, 2, 2, -1))
    with pytest.raises(UserError, match=r"pooling must be of cls, max, mean, .*, got median"):
        pooled(pooling_mode="median")
    with pytest.raises(UserError, match="got none"):
        pooled(pooling_mode_mean_tokens=False)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    folder = save_encoder(tiny_encoder("bert-headless"), tmp_path / "bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "modules.json").write_text('[{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]')
    return {
        "model": str(folder),
        "calibration_text": str(text_file(tmp_path)),
        "block_length": 32,
        "calibration_tokens": 1000,
        "search_tokens": 300,
        "evaluation_tokens": 600,
        "refine_parameters": {"steps": 5},
        "uneven": True,
    }


def test_a_whole_run(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    folder = run(build_config(settings), tmp_path / "run")
    document, metrics = read_grouping(folder.grouping), json.loads(folder.metrics.read_text())
    assert metrics["checkpoint"]["layout"] == "ragged" and "has no head" in metrics["convention"]
    mine, baseline = metrics["results"]["converted"], metrics["results"]["neighbour"]
    assert mine["hidden_error"] < 0.5 * baseline["hidden_error"]
    assert mine["hidden_error_interval"][0] <= mine["hidden_error"] <= mine["hidden_error_interval"][1]
    assert baseline["embedding_cosine"]["plain"] < mine["embedding_cosine"]["plain"] < 1
    assert mine["embedding_cosine"].keys() == {"plain"} and not {"kl", "perplexity", "bits_per_byte"} & mine.keys()
    card, page = (folder.model / "README.md").read_text(), folder.report.read_text()
    assert "squared error of hidden states" in card and "perplexity" not in card.partition("## Configuration")[0]
    assert "hidden-state error" in page and "nan" not in page.partition("Configuration")[0].partition("</style>")[2]
    for name in ("modules.json", "1_Pooling/config.json"):
        assert (folder.model / name).read_bytes() == (Path(settings["model"]) / name).read_bytes()
    work = Workspace(build_config(settings))
    blocks = work.blocks("evaluation")
    written = AutoModel.from_pretrained(folder.model, trust_remote_code=True).eval()
    parts = [hidden_of(model, blocks.ids, blocks.mask)[:, 0] for model in (written, work.parent.model)]
    cosine = torch.nn.functional.cosine_similarity(*parts).mean()
    assert mine["embedding_cosine"]["plain"] == pytest.approx(float(cosine), abs=1e-5)
    arguments = ["evaluate", str(folder.path), "--trust-remote-code"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(result.stdout)["results"]["converted"]["hidden_error"] == pytest.approx(mine["hidden_error"])
    assert "hidden-state error: 95% interval" in CliRunner().invoke(app, arguments).output
    assert document.grouping.kv_heads_total == 6


def test_search_on_the_hidden_states(settings: dict[str, Any], tmp_path: Path) -> None:
    changes = {"method": "staged", "objectives": ["hidden-error"], "max_evaluations": 20, "refine": "outputs"}
    more = {"refine_parameters": {}, "materialize": False, "masked_blocks": 0.5}
    folder = run(build_config(settings | changes | more), tmp_path / "run")
    assert read_grouping(folder.grouping).fitness.name == "hidden-error"  # type: ignore[union-attr]
    assert Workspace(build_config(settings | more)).blocks("calibration").fingerprint != (
        Workspace(build_config(settings)).blocks("calibration").fingerprint
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objectives": ["kl"]},
            "fitness kl is for models with a head, and bert is one without a head; take one of acti",
        ),
        ({"objectives": ["merge-error", "perplexity"]}, "fitness perplexity is for models with a head"),
        ({"method": "staged"}, "fitness kl is for .* take one of .*hidden-error.*merge-error"),
        ({"refine": "joint"}, "refinement joint is for models with a head.* take one of descent, none, outputs"),
        ({"kv_bits": "4"}, "is an encoder, which caches nothing"),
    ],
)
def test_what_needs_a_head_is_refused(changes: dict[str, Any], message: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=message):
        run(build_config({**settings, "refine_parameters": {}, **changes}), Path("none"))


def test_hidden_error_needs_a_model_without_one(settings: dict[str, Any]) -> None:
    settings = settings | {"model": "embedded", "objectives": ["hidden-error"], "calibration_text": "embedded"}
    with pytest.raises(UserError, match=r"hidden-error is for models without a head, and .* is one with a head"):
        run(build_config({**settings, "refine_parameters": {}}), Path("none"))


def test_verbs_that_need_a_head(settings: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["--model", settings["model"], "--set", f"calibration_text={settings['calibration_text']}"]
    arguments += ["--set", "block_length=32"]
    compared = CliRunner().invoke(app, ["compare", *arguments, "--output-dir", str(tmp_path / "compared")])
    assert "has no head, and a comparison ranks" in " ".join(compared.output.split())
    model = settings["model"]
    written = CliRunner().invoke(app, ["evaluate", model, "--parent", model, "--generate"])
    assert written.exit_code == 2 and "--generate needs a model that predicts the next token" in written.output


def test_a_checkpoint_of_another_kind_is_not_of_this_parent(settings: dict[str, Any], tmp_path: Path) -> None:
    other = save_encoder(tiny_encoder("bert"), tmp_path / "other")
    found = CliRunner().invoke(app, ["evaluate", str(other), "--parent", settings["model"]])
    assert "predicts masked tokens, the parent" in " ".join(found.output.split())


def test_parents_in_memory() -> None:
    assert Parent.from_model(tiny_encoder("electra-headless")).family.objective == "hidden-states"
