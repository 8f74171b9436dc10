"""Whole runs on a tiny model: every file, resume to the same bits after SIGKILL, nothing overwritten."""

from __future__ import annotations

import gc
import json
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.calibration.text import SHARES
from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import ParentLayers, cached_kv_heads
from gqasearch.files import read_json
from gqasearch.grouping import LayerGrouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord, MergeRecord, RefinementRecord, read_grouping
from gqasearch.merging import LayerMerge
from gqasearch.models import LayerWeights, layers_replaced, load_parent, model_record
from gqasearch.refining import Descent, NoRefinement, Outputs
from gqasearch.run import RunFolder, RunListener, report_data, run
from gqasearch.steps import Workspace
from gqasearch.steps.convert import document_converter, document_refinement
from tests import forked
from tests.matrix import sampled
from tests.samples import random_blocks
from tests.tiny_models import edit_config

SMALL = {"population": 8, "offspring": 8, "generations": 6}


def finished(settings: dict[str, Any], folder: Path, *, report: bool = False, **changes: Any) -> RunFolder:
    return run(build_config({**settings, **changes}), folder, report=report)


def test_a_run_leaves_everything_the_format_promises(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", method_parameters=SMALL, report=True)
    for path in (folder.config, folder.environment, folder.history, folder.state, folder.grouping, folder.metrics):
        assert path.is_file(), path
    assert folder.report.read_text().startswith("<!")
    document = read_grouping(folder.grouping)
    assert document.grouping.group_counts == (3, 3)
    assert document.fitness is not None and document.fitness.name == "merge-error"
    assert document.fitness.value == pytest.approx(sum(layer.error or 0.0 for layer in document.layers), rel=1e-12)
    metrics = json.loads(folder.metrics.read_text())
    reported = metrics["texts"]["reported"]["fingerprint"]
    assert metrics["texts"]["statistics"]["used"] and metrics["texts"]["statistics"]["fingerprint"] != reported
    assert metrics["texts"]["search"] == {"used": False}
    assert 0 < metrics["results"]["converted"]["kl"] < metrics["results"]["neighbour"]["kl"]
    assert metrics["parent"]["kv_bytes_per_token"] == 2 * metrics["results"]["converted"]["kv_bytes_per_token"]
    assert f"{metrics['results']['converted']['perplexity']:.5g}" in (folder.model / "README.md").read_text()
    assert [result.name for result in report_data([folder]).results] == [
        "neighbour + mean",
        "merge-error + optimal + descent",
    ]


def test_the_written_checkpoint_is_the_parent_with_tied_heads(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", method_parameters=SMALL)
    work = Workspace(folder.read_config())
    document = read_grouping(folder.grouping)
    blocks = random_blocks(work.parent.config["vocab_size"])
    converter = document_converter(work, document)
    refinement = document_refinement(work, document)
    refined = converter.refine(document.grouping, work.blocks("calibration"), refinement)
    assert set(refined) == {0, 1} and refinement == Descent()
    wanted = converter.runner(document.grouping, refined)(blocks.ids, blocks.mask)
    model = AutoModelForCausalLM.from_pretrained(folder.model, trust_remote_code=False)
    with torch.no_grad():
        torch.testing.assert_close(model(blocks.ids).logits, wanted, atol=5e-5, rtol=0)
    assert cached_kv_heads(model) == [3, 3]


def test_a_refinement_is_named_fitted_and_recorded(settings: dict[str, Any], tmp_path: Path) -> None:
    """A merge from weights alone, refined: the text it was fitted on is said, the figures differ, the label says so."""
    plain = {"method": "neighbour", "merge": "mean", "objectives": ["weight-sharing-error"]}
    without = finished(settings, tmp_path / "without", **plain)
    fitted = {"ridge": 0.01, "validate": False}  # to all of little text
    with_it = finished(settings, tmp_path / "with", **plain, refine="outputs", refine_parameters=fitted)
    assert without.read_config().refine == "none" and with_it.read_config().refine == "outputs"
    assert read_grouping(without.grouping).refinement is None
    assert read_grouping(with_it.grouping).refinement == RefinementRecord("outputs", fitted)
    first, second = (json.loads(folder.metrics.read_text()) for folder in (without, with_it))
    assert second["results"]["converted"]["kl"] < 0.9 * first["results"]["converted"]["kl"]
    assert not first["texts"]["statistics"]["used"] and second["texts"]["statistics"]["used"]
    names = [result.name for result in report_data([with_it]).results]
    assert names == ["neighbour + mean", "neighbour + mean + outputs"]
    assert "name: outputs" in (with_it.model / "README.md").read_text()
    with pytest.raises(UserError, match="refine was 'none', is 'outputs'"):
        finished(settings, tmp_path / "without", **plain, refine="outputs")


def test_what_a_grouping_says_is_what_is_fitted(settings: dict[str, Any], tmp_path: Path) -> None:
    """Its own refinement; none where it names a merge alone; the settings' where it names neither."""
    work = Workspace(build_config({**settings, "refine": "outputs"}))
    mean, descent = MergeRecord("mean"), RefinementRecord("descent", {"steps": 3})
    cases = ((mean, descent, Descent(steps=3)), (None, descent, Descent(steps=3)))
    for merge, record, wanted in (*cases, (mean, None, NoRefinement()), (None, None, Outputs())):
        layers = tuple(LayerRecord(LayerGrouping.neighbours(6, 3)) for _ in range(2))
        document = GroupingDocument(model_record(work.parent.id, work.parent), layers, merge=merge, refinement=record)
        assert document_refinement(work, document) == wanted


def test_same_seed_same_bits_and_another_seed_another_search(settings: dict[str, Any], tmp_path: Path) -> None:
    changes = {"method": "random", "method_parameters": {"samples": 5}, "materialize": False, "baseline": False}
    first, second, other = (
        finished(settings, tmp_path / name, seed=seed, **changes) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.grouping.read_bytes() == second.grouping.read_bytes()
    assert first.grouping.read_bytes() != other.grouping.read_bytes()
    assert not first.model.exists()


def test_a_finished_run_is_not_touched_by_running_it_again(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", method="neighbour")
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.name != ".lock"}
    finished(settings, tmp_path / "run", method="neighbour")
    after = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.name != ".lock"}
    assert {p: t for p, t in after.items() if p.is_file()} == {p: t for p, t in before.items() if p.is_file()}


def test_a_run_does_not_go_on_with_another_model_under_the_same_name(
    settings: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(checkpoint, tmp_path / "source"))
    cheap = {"method": "neighbour", "merge": "mean", "refine": "none"}
    changes = {**cheap, "model": str(source), "baseline": False, "materialize": False}
    finished(settings, tmp_path / "run", **changes)
    edit_config(source, rope_theta=500.0)
    with pytest.raises(UserError, match="begun with another"):
        finished(settings, tmp_path / "run", **changes)


def test_pareto_search_picks_within_the_budget(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(
        settings, tmp_path / "run", objectives=["merge-error", "kv-ratio"], kv_ratio=0.5, method_parameters=SMALL
    )
    front = json.loads(folder.pareto.read_text())
    assert front["objectives"] == ["merge-error", "kv-ratio"]
    values = [tuple(point["values"]) for point in front["points"]]
    assert len(values) > 2
    for a in values:
        assert not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in values)
    assert read_grouping(folder.grouping).grouping.kv_heads_total <= 6
    shown = report_data([folder]).front
    assert shown is not None and shown.chosen is not None


@pytest.mark.parametrize(
    "fitness",
    sampled(["kl", "perplexity", "weight-sharing-error", "activation-cosine"], ["perplexity", "weight-sharing-error"]),
)
def test_every_fitness_drives_a_run(settings: dict[str, Any], tmp_path: Path, fitness: str) -> None:
    small = {**SMALL, "generations": 2, "local_individuals": 0}
    folder = finished(settings, tmp_path / "run", objectives=[fitness], merge="mean", method_parameters=small)
    metrics = json.loads(folder.metrics.read_text())
    assert metrics["texts"]["search"]["used"] == (fitness in ("kl", "perplexity"))
    assert bool(metrics["warnings"]) == (fitness in ("kl", "perplexity"))


def test_nothing_large_of_the_search_stays_beside_what_follows(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wide layer's moments and statistics: the refinement needs that memory."""
    monkeypatch.setattr("gqasearch.evaluation.candidates.LAYER_BYTES", 1)
    monkeypatch.setattr("gqasearch.calibration.cache.SMALL", 1)
    left: list[int] = []
    refine = Descent.refine_layer

    def counted(self: Descent, *arguments: Any) -> LayerWeights:
        gc.collect()
        left.append(sum(issubclass(type(thing), (LayerMerge, LayerStatistics)) for thing in gc.get_objects()))
        return refine(self, *arguments)

    gc.collect()
    others = sum(issubclass(type(thing), (LayerMerge, LayerStatistics)) for thing in gc.get_objects())
    monkeypatch.setattr(Descent, "refine_layer", counted)
    run(build_config(settings), tmp_path / "run")
    assert len(left) == 2 and max(left) <= others


@pytest.mark.nightly
def test_text_that_spoils_the_figures_is_named(settings: dict[str, Any], tmp_path: Path) -> None:
    """A benchmark's test set that was searched and fitted on, and reported text that was seen before."""
    text = Path(settings["calibration_text"])
    benchmark = tmp_path / "wikitext-2" / "wiki.test.txt"
    benchmark.parent.mkdir()
    benchmark.write_text(text.read_text())
    small = {"method_parameters": {**SMALL, "generations": 1, "local_individuals": 0}, "materialize": False}
    cases = (("kl", "the search ran the model on", "search"), ("merge-error", "weights were fitted to", "calibration"))
    for objective, use, split in cases:
        again = tmp_path / f"{split}.txt"
        start, stop = SHARES[split]
        again.write_text(text.read_text()[int(start * 20_000) : int(stop * 20_000)])
        # Blocks of two windows: the same text, cut at other places, still has windows in common.
        changes = {
            "calibration_text": str(benchmark),
            "evaluation_text": str(again),
            "objectives": [objective],
            "block_length": 64,
        }
        folder = finished(settings, tmp_path / objective, **changes, **small)
        found = json.loads(folder.metrics.read_text())["warnings"]
        assert any(f"test set of WikiText: {use}" in warning for warning in found)
        assert [warning for warning in found if "reported text" in warning and f"in the {split} text" in warning]
        assert len([warning for warning in found if "reported text" in warning]) == 1


def test_a_moving_budget_is_kept(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", kv_budget=7, method_parameters=SMALL, materialize=False)
    assert read_grouping(folder.grouping).grouping.kv_heads_total == 7


def test_an_evaluation_that_was_stopped_goes_on_at_its_layer(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**settings, "merge": "mean", "refine": "none"}
    wanted = json.loads(finished(settings, tmp_path / "whole").metrics.read_text())
    monkeypatch.setattr("gqasearch.evaluation.climb_state.REST_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):  # noqa: PT012
        patch.setattr(ParentLayers, "predict", stop)
        finished(settings, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert read_json(folder.measured / "climb.json")["level"] == 2
    monkeypatch.setattr(ParentLayers, "layer_loaded", stop)  # all layers are behind it
    finished(settings, folder.path)
    found = json.loads(folder.metrics.read_text())
    assert all(found[key] == wanted[key] for key in ("parent", "results", "targets"))
    assert not folder.measured.exists()


def test_candidates_that_were_stopped_go_on_at_their_layer(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"population": 4, "generations": 2, "local_steps": 0}
    own = {**settings, "merge": "mean", "refine": "none", "objectives": ["kl"], "method_parameters": few}
    whole = finished(own, tmp_path / "whole", materialize=False)
    monkeypatch.setattr("gqasearch.evaluation.candidate_state.REST_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):  # noqa: PT012
        patch.setattr(ParentLayers, "predictions", Later(ParentLayers.predictions, 9))  # after some candidates
        finished(own, tmp_path / "run", materialize=False)
    folder = RunFolder(tmp_path / "run")
    assert (folder.candidates / "kl" / "quick" / "losses.jsonl").stat().st_size
    finished(own, folder.path, materialize=False)
    assert folder.grouping.read_bytes() == whole.grouping.read_bytes()
    assert history_of(folder) == history_of(whole)
    assert not folder.candidates.exists()


class Later:
    """A method that fails at a later call."""

    def __init__(self, method: Callable[..., Any], calls: int) -> None:
        self.method, self.left = method, calls

    def __get__(self, owner: object, _type: type) -> Callable[..., Any]:
        self.left -= 1
        return stop if self.left < 0 else partial(self.method, owner)


def stop(*_arguments: object) -> None:
    raise InterruptedError


def history_of(folder: RunFolder) -> list[dict[str, Any]]:
    """All but the clock."""
    lines = folder.history.read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def words(settings: dict[str, Any], folder: Path) -> list[str]:
    """What stands behind ``gqasearch``."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    small = ["--set=method.population=16", "--set=method.generations=20", "--set=method.patience=20"]
    small += ["--set=method.local_steps=0", "--set=method.offspring=16"]
    return ["search", f"--output-dir={folder}", *flags, *small, "--quiet"]


def lines_of(folder: Path) -> int:
    path = folder / "history.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_after(process: ForkServerProcess, folder: Path, lines: int) -> None:
    """SIGKILL once the history has grown by so many lines since the process began to write."""
    start: int | None = None
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline:
        now = lines_of(folder)
        start = now if start is None or now < start else start
        if now - start >= lines:
            break
        time.sleep(0.002)
    forked.end(process)


def test_killed_at_random_moments_and_resumed_gives_the_same_bits(
    settings: dict[str, Any], tmp_path: Path, nightly: bool
) -> None:
    """The fitness runs the model, so that generations last long enough to be hit."""
    settings = {**settings, "fitness": "kl", "kv_heads": 3, "search_tokens": 200, "merge": "mean"}
    errors, rng = tmp_path / "errors", random.Random(0)
    for _ in range(5 if nightly else 2):
        process = forked.start(forked.command, words(settings, tmp_path / "killed"), errors)
        kill_after(process, tmp_path / "killed", rng.randint(1, 6))
        assert not (tmp_path / "killed" / "grouping.json").exists()
    for name in ("killed", "whole"):
        assert CliRunner().invoke(app, words(settings, tmp_path / name)).exit_code == 0
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    assert killed.grouping.read_bytes() == whole.grouping.read_bytes()
    assert history_of(whole) == history_of(killed)
    weights = [(f.model / "model.safetensors").read_bytes() for f in (whole, killed)]
    assert weights[0] == weights[1]


class Stop(RunListener):
    """Ends a run after a generation."""

    def on_generation(self, record: Mapping[str, Any]) -> None:
        if record["generation"] == 1:
            raise InterruptedError


def test_a_search_that_no_longer_comes_out_as_it_did_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    """As on another machine, or with another version of a library."""
    small = {"population": 4, "generations": 4, "patience": 20, "local_steps": 0}
    config = build_config({**settings, "fitness_parameters": {}, "method_parameters": small, "materialize": False})
    with pytest.raises(InterruptedError):
        run(config, tmp_path, listeners=[Stop()])
    history = tmp_path / "history.jsonl"
    first, *others = history.read_text().splitlines()
    assert len(others) == 1
    changed = json.loads(first)
    changed["best"][0] *= 1 + 1e-12
    history.write_text("\n".join([json.dumps(changed), *others, others[-1][:20]]))
    with pytest.raises(UserError, match="generation 0 of its search no longer comes out as it did"):
        run(config, tmp_path)
    history.write_text("\n".join([first, *others, others[-1][:20]]))  # the last line torn, as by a kill
    resumed = run(config, tmp_path)
    assert resumed.history.read_text().splitlines()[:2] == [first, *others]
    assert [line["generation"] for line in history_of(resumed)] == list(range(len(history_of(resumed))))


def test_permuting_heads_leaves_logits_unchanged(checkpoint: Path) -> None:
    parent = load_parent(str(checkpoint))
    layer, blocks = parent.layer(0), random_blocks(parent.config["vocab_size"])
    order = [3, 0, 5, 1, 4, 2]
    with torch.no_grad():
        before = parent.model(blocks.ids).logits
        permuted = replace(layer, **{role: getattr(layer, role)[order] for role in ("q", "k", "v", "o")})
        with layers_replaced(parent, {0: permuted}):
            torch.testing.assert_close(parent.model(blocks.ids).logits, before, atol=2e-5, rtol=0)
