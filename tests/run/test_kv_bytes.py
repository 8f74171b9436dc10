"""One budget in bytes: what fits, which of it is taken, and that it is told; whole runs on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter, ParentLayers, ParentLogProbs, RoundedLayers
from gqasearch.grouping_document import read_grouping
from gqasearch.rounding import parse_format, parse_formats
from gqasearch.run import RunFolder, run
from gqasearch.run.finished_runs import report_data
from gqasearch.run.origin import evaluation_config
from gqasearch.steps import Workspace
from gqasearch.steps.kv_bytes import losses as losses_module
from gqasearch.steps.kv_bytes import options_of
from gqasearch.steps.kv_bytes.byte_options import non_dominated
from gqasearch.targets import PLAIN_FORMATS, TARGETS
from tests.tiny_encoders import save_encoder, tiny_encoder
from tests.tiny_models import save_checkpoint, tiny_model

# 2 layers of 6 heads of 8: 768 bytes in float32, 384 in 16 bits.
WHOLE, HEAD = 384, 8
OF_HEAD = {"f16": 32, "int8": 24, "k8v4": 20, "int4": 16, "k4v3": 15, "int3": 14, "k3v2": 13, "int2": 12}
SMALL = {"population": 6, "offspring": 6, "generations": 1}


def finished(settings: dict[str, Any], folder: Path, tell: Callable[[str], object] = str, **changes: Any) -> RunFolder:
    small = {"method_parameters": SMALL, "baseline": False, "refine": "none"}
    return run(build_config({**settings, **small, **changes}), folder, report=False, tell=tell)


def allowed(settings: dict[str, Any], **changes: Any) -> dict[str, int]:
    return {one.kv.name: one.heads for one in options_of(Workspace(build_config({**settings, **changes})))}


@pytest.mark.parametrize("share", [0.07, 0.14, 0.25, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("uneven", [False, True])
def test_as_many_heads_as_fit(settings: dict[str, Any], share: float, uneven: bool) -> None:
    """By counting up, in every layer or in the whole model."""
    wanted = {}
    for name, size in OF_HEAD.items():
        each, most, least = (size, 12, 2) if uneven else (2 * size, 6, 1)
        heads = max((n for n in range(least, most + 1) if n * each <= share * WHOLE), default=0)
        wanted |= {name: heads} if heads else {}
    assert allowed(settings, kv_bytes=share, uneven=uneven) == wanted


def test_what_else_bounds_them(settings: dict[str, Any]) -> None:
    formats = {"kv_bytes": 0.45, "formats": "int4,int2"}
    assert allowed(settings, **formats) == {"int4": 5, "int2": 6}
    assert allowed(settings, **formats, equal_sizes=True) == {"int4": 3, "int2": 6}
    assert allowed(settings, **formats, tensor_parallel=2) == {"int4": 4, "int2": 6}
    # A head of 16 has one scale for 16 numbers: 4 + 8 bytes in int4, 4 + 4 in int2, of keys and of values.
    assert allowed(settings, **formats, join=2) == {"int4": 3, "int2": 3}
    assert allowed(settings, kv_bytes=0.2, formats="int4,int2", join=2) == {"int4": 1, "int2": 2}


def test_formats_of_targets() -> None:
    for target in TARGETS.values():
        assert [kv.name for kv in parse_formats(target.formats)] == list(target.formats)
    assert TARGETS["any"].formats == ("f16",) == TARGETS["ctranslate2"].formats
    sizes = [kv.bytes_per_token(1, 1, 64) for kv in parse_formats(PLAIN_FORMATS)]
    assert sizes == sorted(sizes, reverse=True)


def test_refusals(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--kv-bytes 0.05: the smallest .* takes 0.0625 .* 1 KV head in .* format int2"
    ):
        finished(settings, tmp_path / "run", kv_bytes=0.05)
    with pytest.raises(UserError, match=r"q8_0 takes heads whose size is a multiple of 32; this model's is 8"):
        finished(settings, tmp_path / "run", kv_bytes=0.3, formats="int8,q8_0")
    for given, said in (
        ({"kv_bytes": 0.3, "kv_ratio": 0.5}, "give one of kv_ratio, kv_heads, kv_budget, kv_bytes"),
        ({"kv_bytes": 0.3, "kv_bits": "4"}, "give formats in place of kv_bits"),
        ({"formats": "4"}, "formats has no effect without kv_bytes"),
        ({"kv_bytes": 0.3, "formats": "4,q9"}, "unknown cache format 'q9'"),
        ({"kv_bytes": 1.5}, "kv_bytes"),
        ({"objectives": ["merge-error", "kv-bytes"]}, "objective kv-bytes goes with kl alone before it"),
        ({"objectives": ["kl", "kv-bytes"], "kv_heads": 2}, "give kv_bytes in place of kv_heads"),
        ({"objectives": ["kl", "kv-bytes"], "method": "staged"}, "goes with method evolution"),
    ):
        with pytest.raises(UserError, match=said):
            build_config({**settings, **given})
    encoder = str(save_encoder(tiny_encoder("bert"), tmp_path / "encoder"))
    with pytest.raises(UserError, match=r"--kv-bytes: .* is an encoder, which caches nothing"):
        finished({**settings, "model": encoder}, tmp_path / "run", kv_bytes=0.3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("uneven", [False, True])
def test_the_best_is_taken_and_told(settings: dict[str, Any], tmp_path: Path, uneven: bool) -> None:
    told: list[str] = []
    given = {"kv_bytes": 0.3, "formats": "int8,int4,int2", "uneven": uneven}
    folder = finished(settings, tmp_path / "run", told.append, **given)
    assert told[0].startswith("0.3 of the bytes, one of: int8 with ")
    metrics = json.loads(folder.metrics.read_text())
    rows = metrics["decision"]["options"]
    assert {row["format"]: row["kv_heads_total"] for row in rows} == (
        {"int8": 4, "int4": 7, "int2": 9} if uneven else {"int8": 4, "int4": 6, "int2": 8}
    )
    (taken,) = (row for row in rows if row["chosen"])
    assert taken["kl"] == min(row["kl"] for row in rows)
    document, config = read_grouping(folder.grouping), folder.read_config()
    assert document.kv_bits == taken["format"] and document.grouping.kv_heads_total == taken["kv_heads_total"]
    assert config.kv_bytes == 0.3 and config.kv_bits is None
    (converted,) = (row for row in metrics["rounded"] if row["model"] == "converted")
    assert converted["kv_share"] == taken["kv_share"] == taken["kv_bytes_per_token"] / WHOLE <= 0.3
    assert report_data([folder]).title.endswith(
        f": {converted['kv_share']:.3g} of the KV cache's bytes, {taken['format']}"
    )
    assert metrics["texts"]["search"]["used"]
    assert any(words.startswith("0.3 of the parent's KV bytes in 16 bits became ") for words in told[1:])

    card = " ".join((folder.model / "README.md").read_text().split())
    assert f"0.3 of the parent's KV bytes in 16 bits became {taken['kv_heads_total']} KV heads in the format" in card
    assert evaluation_config(folder.model, {}).kv_bytes is None  # a checkpoint is measured as it is
    before = folder.metrics.read_bytes()
    assert finished(settings, tmp_path / "run", **given).metrics.read_bytes() == before
    with pytest.raises(UserError, match=r"kv_bytes was 0.3, is 0.4"):
        finished(settings, tmp_path / "run", **{**given, "kv_bytes": 0.4})


def kl_of(folder: RunFolder, kv: str) -> float:
    """Of what the run found, on its search text, after the merge alone, the cache rounded."""
    work = Workspace(build_config(folder.read_config().model_dump(mode="json")))
    converter = Converter(work.parent, work.merge, lambda: work.statistics)
    reference = ParentLogProbs.compute(ParentLayers(work.parent), work.blocks("search"))
    runner = converter.runner(read_grouping(folder.grouping).grouping)
    return reference.mean_kl(RoundedLayers(runner, parse_format(kv)))


def taken_kl(folder: RunFolder) -> float:
    (taken,) = (row for row in json.loads(folder.metrics.read_text())["decision"]["options"] if row["chosen"])
    found: float = taken["kl"]
    return found


def test_options_are_compared_in_a_basis_for_their_format(settings: dict[str, Any], tmp_path: Path) -> None:
    """An outlier among the values costs a rounded cache dear, and a basis nothing: it does not decide."""
    plain = finished(settings, tmp_path / "plain", kv_bytes=0.3, formats="f16")
    assert taken_kl(plain) == pytest.approx(kl_of(plain, "f16"), rel=1e-5), "16 bits: no basis"

    model = tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            values, outputs = layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight
            values[::HEAD] *= 30  # the first number of every head
            outputs[:, ::HEAD] /= 30
    given = {"kv_bytes": 0.3, "formats": "int3"}
    usual = finished(settings, tmp_path / "usual", **given)
    scaled = finished(
        {**settings, "model": str(save_checkpoint(model, tmp_path / "model"))}, tmp_path / "scaled", **given
    )
    assert kl_of(scaled, "int3") > 2 * kl_of(usual, "int3")
    assert taken_kl(scaled) == pytest.approx(taken_kl(usual), rel=0.1)


def test_it_goes_on_where_it_was_stopped(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"kv_bytes": 0.3, "formats": "int8,int4,int2"}
    whole = finished(settings, tmp_path / "whole", **given)
    real, asked = losses_module.FormatLosses.__call__, []

    def stopping(self: Any, kv: Any, grouping: Any, batches: Any) -> float:
        if kv.name == "int2":
            raise KeyboardInterrupt
        return real(self, kv, grouping, batches)

    def counting(self: Any, kv: Any, grouping: Any, batches: Any) -> float:
        before = self._of(kv).tokens_run
        found = real(self, kv, grouping, batches)
        asked.append((kv.name, self._of(kv).tokens_run - before))
        return found

    monkeypatch.setattr(losses_module.FormatLosses, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        finished(settings, tmp_path / "run", **given)
    assert not (tmp_path / "run" / "format.json").exists()
    monkeypatch.setattr(losses_module.FormatLosses, "__call__", counting)
    folder = finished(settings, tmp_path / "run", **given)
    assert folder.format.read_bytes() == whole.format.read_bytes()
    assert folder.grouping.read_bytes() == whole.grouping.read_bytes()
    assert [name for name, tokens in asked if tokens] == ["int2"], "the others were measured before"


def test_a_front_of_bytes(settings: dict[str, Any], tmp_path: Path) -> None:
    given = {"objectives": ["kl", "kv-bytes"], "kv_bytes": 0.2, "formats": "f16,int4,int2"}
    small = {"method_parameters": SMALL, "baseline": False, "refine": "none", "search_tokens": 2500}
    folder = run(build_config({**settings, **small, **given}), tmp_path / "run")
    front = json.loads(folder.pareto.read_text())
    points = [tuple(point["values"]) for point in front["points"]]
    assert front["objectives"] == ["kl", "kv-bytes"] and len(points) > 3
    assert points == sorted(points, key=lambda point: point[1])
    assert all(one[0] > other[0] for one, other in pairwise(points))
    for point in front["points"]:
        assert point["kv_bytes_per_token"] == point["kv_heads_total"] * OF_HEAD[point["format"]]
        assert point["values"][1] == pytest.approx(point["kv_bytes_per_token"] / WHOLE)
    assert front["points"][-1]["kv_heads_total"] == 12 and front["points"][0]["format"] == "int2"
    (taken,) = (row for row in json.loads(folder.format.read_text())["options"] if row["chosen"])
    within = [kl for kl, share in points if share <= 0.2]
    assert (
        taken["kl"] == min(within)
        and read_grouping(folder.grouping).grouping.kv_heads_total == (taken["kv_heads_total"])
    )
    page = folder.report.read_text()
    assert "Heads and bits" in page and "Pareto front" in page


def test_the_front_of_some_pairs() -> None:
    assert non_dominated([(3, 1), (1, 3), (2, 2), (2, 3), (4, 0.5), (3, 1), (5, 5)]) == [4, 0, 2, 1]


def test_dry_run_and_command_line(settings: dict[str, Any], tmp_path: Path) -> None:
    tokens = ["--calibration-tokens", "600", "--search-tokens", "300", "--block-length", "32"]
    given = ["--model", settings["model"], "--calibration-text", settings["calibration_text"], *tokens]
    given += ["--kv-bytes", "0.3", "--formats", "int4,int2", "--output-dir", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["search", *given, "--dry-run"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "0.3 of the bytes, one of: int4 with 6 KV heads, int2 with 8 KV heads" in result.output
    assert "KV heads in every layer" not in result.output, "the budget of one option is not that of the run"
    assert "kv_bytes: 0.3" in result.output and not (tmp_path / "run").exists()


def test_a_ratio_that_is_no_whole_number_of_heads_is_told(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", kv_ratio=0.4)
    words = "kv-ratio 0.4 is no whole number of 6 heads: taking the nearest, 2 of 6 = 0.3333 in every layer"
    assert words in json.loads(folder.metrics.read_text())["warnings"]
    card = " ".join((folder.model / "README.md").read_text().split())
    assert f"K{words[1:]}." in card
