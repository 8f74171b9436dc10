"""The Python API: objects in, objects out, on the embedded model and on one in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

import gqasearch as gqs
from gqasearch.config import build_config
from gqasearch.reporting import HistoryPoint
from gqasearch.run import run
from gqasearch.searching import Generation
from gqasearch.steps import NoProgress
from tests.tiny_models import tiny_model

TOKENS = {"calibration_tokens": 2048, "search_tokens": 1024, "evaluation_tokens": 1024}


@pytest.fixture(scope="module")
def parent() -> gqs.ParentWithText:
    return gqs.load("embedded", **TOKENS)


@pytest.fixture(scope="module")
def result(parent: gqs.ParentWithText) -> gqs.SearchResult:
    return gqs.search(parent, kv_ratio=0.5, refine=gqs.Outputs(), method=gqs.Evolution(population=8, generations=3))


def test_the_block_of_the_readme(parent: gqs.ParentWithText, tmp_path: Path) -> None:
    shown: list[Generation] = []
    result = gqs.search(
        *(parent,),
        kv_ratio=0.5,
        fitness=gqs.MergeError(),
        merge=gqs.Optimal(),
        refine=gqs.Outputs(),
        method=gqs.Evolution(population=8, generations=3),
        seed=0,
        callbacks=[shown.append],
    )
    assert shown == list(result.history) and result.grouping == result.front[0].grouping
    ours, neighbours = gqs.KL(tokens=1024).evaluate(parent, [result.grouping, gqs.neighbours(parent, 0.5)])
    assert 0 < ours < neighbours

    before = {name: weight.clone() for name, weight in parent.model.named_parameters()}
    inputs = parent.tokenizer("import os\n", return_tensors="pt")
    with gqs.converted(parent, result.grouping, refine=gqs.Outputs()) as model:
        assert model.generate(**inputs, max_new_tokens=4, do_sample=False).shape[1] > inputs.input_ids.shape[1]
        inside = model(inputs.input_ids).logits
    assert all(torch.equal(before[name], weight) for name, weight in parent.model.named_parameters())

    written = AutoModelForCausalLM.from_pretrained(result.save(tmp_path / "converted"))
    assert (written(inputs.input_ids).logits - inside).abs().max() < 1e-3 * inside.abs().max()

    study = optuna.create_study()
    study.optimize(
        lambda t: gqs.search(parent, kv_ratio=t.suggest_float("r", 0.25, 0.75), refine="none", method="neighbour").kl,
        n_trials=2,
    )
    assert all(trial.value is not None and trial.value > 0 for trial in study.trials)


def test_a_run_finds_the_same(result: gqs.SearchResult, tmp_path: Path) -> None:
    settings = {"kv_ratio": 0.5, "refine": "outputs", "method_parameters": {"population": 8, "generations": 3}}
    config = build_config({**TOKENS, **settings, "materialize": False, "baseline": False})
    folder = run(config, tmp_path / "run", report=False)
    written = json.loads(folder.grouping.read_text())
    assert written["layers"] == json.loads(result.document.to_json())["layers"]
    assert written["fitness"]["value"] == result.value
    held_out = json.loads(folder.metrics.read_text())["results"]["converted"]["kl"]
    assert held_out == pytest.approx(result.measure(baseline=False)["results"]["converted"]["kl"], rel=1e-6)


def test_settings_are_chosen_by_text_that_is_not_reported_on(result: gqs.SearchResult) -> None:
    validated, held_out = (result.measure(part, baseline=False) for part in ("validation", "held-out"))  # type: ignore[arg-type]
    assert result.kl == validated["results"]["converted"]["kl"]
    prints = {each["texts"]["reported"]["fingerprint"] for each in (validated, held_out)}
    searched = {held_out["texts"][name].get("fingerprint") for name in ("statistics", "search")}
    assert len(prints) == 2 and not prints & searched


def test_a_front_of_several_objectives(parent: gqs.ParentWithText) -> None:
    found = gqs.search(parent, fitness=[gqs.WeightSharingError(), "kv-ratio"], merge="mean")
    ratios = [candidate.values[1] for candidate in found.front]
    errors = [candidate.values[0] for candidate in found.front]
    assert len(found.front) > 5 and np.all(np.diff(np.array(errors)[np.argsort(ratios)]) < 0)


def test_a_model_in_memory_is_enough(parent: gqs.ParentWithText, tmp_path: Path) -> None:
    model = tiny_model("llama")
    tokenizer = parent.tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    model.resize_token_embeddings(len(tokenizer))
    text = [f"def function_{i}(x):\n    return x + {i}\n" * 40 for i in range(40)]
    mine = gqs.load(model, tokenizer=tokenizer, text=text, block_length=32, **TOKENS)
    found = gqs.search(mine, kv_ratio=0.5, merge=gqs.Mean(), method="neighbour")
    assert found.grouping == gqs.neighbours(mine, 0.5)
    ids = tokenizer(text[0], return_tensors="pt").input_ids[:, :16]
    with found.converted() as converted:
        assert converted is model
        inside = model(ids).logits
    written = AutoModelForCausalLM.from_pretrained(found.save(tmp_path / "converted"))
    torch.testing.assert_close(written(ids).logits, inside, rtol=1e-4, atol=1e-5)
    assert (model(ids).logits - inside).abs().max() > 1e-4


class StopHereError(Exception):
    """What a callback may raise."""


def test_a_callback_may_end_the_search(parent: gqs.ParentWithText) -> None:
    def stop(_: Generation) -> None:
        raise StopHereError

    with pytest.raises(StopHereError):
        gqs.search(parent, refine="none", callbacks=[stop])


def test_what_is_wrong_is_said(parent: gqs.ParentWithText) -> None:
    with pytest.raises(gqs.UserError, match="calibration_token"):
        gqs.load("embedded", calibration_token=3)
    with pytest.raises(gqs.UserError, match=r"fitness.*merge-eror.*merge-error"):
        gqs.search(parent, fitness="merge-eror")
    with pytest.raises(gqs.UserError, match="kv_ratio must be above 0"):
        gqs.search(parent, kv_ratio=1.5)
    with pytest.raises(gqs.UserError, match="tokenizer"):
        gqs.load(tiny_model("llama"), text=["a"])
    for settings in ({"model": "no/such/model"}, {"text": "no/such.txt"}, {"evaluation_text": "no/such.txt"}):
        with pytest.raises(gqs.UserError, match=r"no/such.*: no such file") as told:
            gqs.load(**settings)
        assert "--" not in str(told.value)  # a flag is of the command line; here it is an argument
    mine = gqs.load(tiny_model("llama"), tokenizer=parent.tokenizer, text=["a"], block_length=32)
    with pytest.raises(gqs.UserError, match=r"join 2.*files"):
        gqs.search(mine, join=2)
    with pytest.raises(gqs.UserError, match="too short"):
        gqs.search(mine, method="neighbour", merge="mean")
    with pytest.raises(AttributeError, match="no attribute 'Serch'"):
        gqs.Serch  # noqa: B018


class Noted(NoProgress):
    """What is told of progress."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.points: list[HistoryPoint] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append(name)

    def update(self, completed: int, point: HistoryPoint | None = None, detail: str = "") -> None:
        self.points += [] if point is None else [point]


def test_progress_is_told_where_it_is_asked_for(parent: gqs.ParentWithText, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted()
    monkeypatch.setattr("gqasearch.reporting.SearchProgress", lambda _: nullcontext(noted))
    quick = {"method": "random", "fitness": "weight-sharing-error", "merge": "mean"}
    gqs.search(parent, **quick)
    assert noted.stages == []
    found = gqs.search(parent, **quick, progress=True)
    assert "search" in noted.stages
    assert [(point.generation, point.evaluations, point.best) for point in noted.points] == [
        (generation.index, generation.evaluations, generation.best.values[0]) for generation in found.history
    ]
    assert noted.points[-1].best == found.value


def test_everything_that_is_offered_is_there() -> None:
    assert all(getattr(gqs, name) is not None for name in gqs.__all__)


def test_a_rounded_ratio_is_told(parent: gqs.ParentWithText, result: gqs.SearchResult) -> None:
    assert repr(result).startswith("<SearchResult: 36 KV heads, 0.5 of embedded's; merge-error 0.")
    assert not any("kv-ratio" in note for note in result.notes)
    rounded = gqs.search(parent, kv_ratio=0.4, refine="none", method="neighbour")
    note = "kv-ratio 0.4 is no whole number of 12 heads: taking the nearest, 5 of 12 = 0.4167 in every layer"
    assert rounded.notes[0] == note and f">\nnote: {note}\n" in f"{rounded!r}\n"


def test_loading_shows_no_bars_and_leaves_transformers_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(action="ignore"):  # the hub's word on its own bars
        transformers_logging.enable_progress_bar()
    gqs.load("embedded").model  # noqa: B018
    assert capfd.readouterr() == ("", "") and transformers_logging.is_progress_bar_enabled()


def test_pictures(parent: gqs.ParentWithText, result: gqs.SearchResult) -> None:
    found, geometry = gqs.similarity(parent), parent.geometry
    assert found.key.shape == found.value.shape == (geometry.num_layers, *[geometry.num_kv_heads] * 2)
    for cosines in (found.key, found.value):
        assert np.allclose(cosines.diagonal(axis1=1, axis2=2), 1) and np.allclose(cosines, cosines.swapaxes(1, 2))
    maps = [axes for axes in found.figure().axes if axes.images]
    assert len(maps) == 2 * geometry.num_layers
    (rows,) = (axes for axes in result.figure().axes if axes.images)
    shown = [int(text.get_text()) for text in rows.texts[: geometry.num_kv_heads]]
    assert gqs.LayerGrouping.from_labels(shown) == result.grouping.layers[0]


def test_the_users_own_filters_of_warnings_stay() -> None:
    code = (
        "import warnings; before = list(warnings.filters); import gqasearch; gqasearch.UserError; gqasearch.Grouping; "
    )
    subprocess.run([sys.executable, "-c", code + "assert warnings.filters == before"], check=True)
