"""The experiment on heads and bits: rows that are kept, the best of them, the figure, low rank as a rival."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.frontier import __main__ as frontier
from experiments.frontier.figure import frontier_figure
from experiments.frontier.low_rank import LowRank, LowRankLayers, basis, find_bases
from experiments.frontier.measure import embedding_losses
from experiments.frontier.models import SUBJECTS, Subject
from experiments.frontier.tables import by_kind, summary
from experiments.frontier.ways import ALL, RECIPE, Way
from gqasearch.calibration import collect
from gqasearch.errors import UserError
from gqasearch.evaluation import ParentLayers, evaluate_quality
from gqasearch.models import Parent
from gqasearch.rounding import parse_format
from tests.samples import random_blocks, text_file
from tests.tiny_models import save_checkpoint, tiny_model, tiny_parent


def tiny_subject(tmp_path: Path, *ways: Way) -> Subject:
    model = str(save_checkpoint(tiny_model("llama"), tmp_path / "tiny"))
    few = {"calibration_tokens": 800, "search_tokens": 200, "evaluation_tokens": 600, "block_length": 32}
    return Subject(lambda _: (model, str(text_file(tmp_path))), "random words", few, ways)


def arguments(tmp_path: Path, **changes: Any) -> argparse.Namespace:
    own = {"model": "tiny", "ways": [], "formats": [], "output_dir": tmp_path / "runs", "results": tmp_path / "results"}
    return argparse.Namespace(**{**own, **changes})


def test_rows_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    half = Way("half", ("16", "8", "2"), {**RECIPE, "merge": "mean", "kv_ratio": 0.5})
    latents = Way("half, low rank", ("16", "8"), low_rank=LowRank(0.5, 2))
    subject = tiny_subject(tmp_path, Way(ALL, ("16", "8", "2")), half, latents)
    frontier.measure(subject, arguments(tmp_path, formats=["16", "8"]))
    measured: list[str] = []
    real = frontier.measure_way

    def noted(way: Way, seed: int, formats: list[str], *others: Any) -> Any:
        measured.append(f"{way.name}: {', '.join(formats)}")
        return real(way, seed, formats, *others)

    monkeypatch.setattr(frontier, "measure_way", noted)
    monkeypatch.setattr("gqasearch.run.pipeline.search_step", lambda *_: pytest.fail("it is there"))
    rows = frontier.measure(subject, arguments(tmp_path))
    assert measured == [f"{ALL}: 2", "half: 2"]
    found = rows.set_index(["way", "format"])
    # Heads of 8, or latents of 8 for two of them, with 32 bits of scale and zero each.
    shares = {ALL: 1, "half": 0.5}
    wanted = {
        (way, name): shares[way] * bits for way in shares for name, bits in (("16", 1), ("8", 0.75), ("2", 0.375))
    }
    wanted |= {("half, low rank", "16"): 0.5, ("half, low rank", "8"): 0.5 * 0.75}
    assert found["kv_share"].to_dict() == {key: pytest.approx(share) for key, share in wanted.items()}
    assert found["kind"].to_dict()[("half", "8")] == "both" and found["kind"].to_dict()[(ALL, "8")] == "bits"
    for way in (ALL, "half"):
        assert found.loc[way, "8"]["loss"] < found.loc[way, "2"]["loss"]
    assert found.loc[ALL, "8"]["loss"] < found.loc["half", "16"]["loss"]
    assert len(frontier_figure("tiny", rows).axes[0].lines) == 3
    other = replace(subject, settings={**subject.settings, "evaluation_tokens": 300})
    with pytest.raises(UserError, match="rows were measured with evaluation_tokens 600, not 300"):
        frontier.measure(other, arguments(tmp_path))


def test_the_tables_mark_what_nothing_beats() -> None:
    shared = {"seed": 0, "loss_low": 0.0, "loss_high": 1.0, "perplexity": 3.0}
    places = [
        (ALL, "8", 0.5, 0.1, "bits"),
        ("half", "16", 0.5, 0.3, "heads"),
        ("half", "8", 0.25, 0.1, "both"),
        (ALL, "4", 0.25, 0.2, "bits"),
    ]
    names = ("way", "format", "kv_share", "loss", "kind")
    rows = pd.DataFrame([{**shared, **dict(zip(names, place, strict=True))} for place in places])
    table = summary(rows)
    assert table["way"].tolist() == [ALL, "half", "half", ALL]
    assert table["best"].tolist() == ["*", "", "*", ""]
    kinds = by_kind(rows, (0.5, 0.25, 0.1))
    assert kinds["both over one"].tolist() == ["1.00", "0.50", ""]
    assert kinds["heads"].tolist() == ["0.3 (half: 0.5)", "", ""]
    twice = pd.concat([rows, rows.assign(seed=1, loss=rows["loss"] + 0.2)])
    assert summary(twice)["KL"].tolist() == ["0.2", "0.4", "0.2", "0.3"]
    assert summary(twice)["seeds"].tolist()[0] == "2: 0.1 to 0.3"


def test_no_other_rank_r_map_keeps_more() -> None:
    rng = torch.Generator().manual_seed(0)
    weight, root = torch.randn(6, 9, generator=rng), torch.randn(9, 9, generator=rng)
    moment = (root @ root.T).double()

    def lost(kept: torch.Tensor) -> float:
        rest = weight.double() - kept @ kept.T @ weight.double()
        return float((rest @ moment @ rest.T).trace())

    found = basis(weight, moment, 2, rng)
    assert torch.allclose(found.T @ found, torch.eye(2, dtype=torch.float64))
    whitened = weight.double() @ torch.linalg.cholesky(moment)
    assert lost(found) == pytest.approx(float(torch.linalg.svdvals(whitened)[2:].square().sum()))  # Eckart-Young
    plain = torch.linalg.svd(weight.double()).U[:, :2]
    assert lost(found) < lost(plain)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "phi3"])
def test_latents_of_full_rank_change_nothing(family: str, tmp_path: Path) -> None:
    parent = tiny_parent(family)
    blocks = random_blocks(parent.model.config.vocab_size)
    loss = {rank: quality(parent, tmp_path / str(rank), rank) for rank in (1.0, 0.75, 0.25)}
    own, found = evaluate_quality(ParentLayers(parent), {str(rank): one for rank, one in loss.items()}, blocks)
    assert found["1.0"].kl < 1e-6 < found["0.75"].kl < found["0.25"].kl
    assert found["1.0"].perplexity == pytest.approx(own.perplexity, rel=1e-4)


def quality(parent: Parent, folder: Path, share: float, bits: str | None = None) -> LowRankLayers:
    low_rank = LowRank(share, parent.geometry.num_kv_heads)
    statistics = dict(enumerate(collect(parent, random_blocks(parent.model.config.vocab_size, seed=1), folder)))
    kept = argparse.Namespace(layer=statistics.__getitem__)
    bases = tuple(find_bases(parent, kept, low_rank))  # type: ignore[arg-type] - as much of it as is read
    layers = range(parent.geometry.num_layers)
    return LowRankLayers(parent, layers, None, bases, None if bits is None else parse_format(bits))


def test_latents_are_rounded_and_the_parent_comes_back(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    blocks = random_blocks(parent.model.config.vocab_size)
    models = {bits: quality(parent, tmp_path / bits, 1.0, bits) for bits in ("8", "4", "2")}
    own, found = evaluate_quality(ParentLayers(parent), models, blocks)
    assert 0 < found["8"].kl < found["4"].kl < found["2"].kl
    again, _ = evaluate_quality(ParentLayers(parent), {}, blocks)
    assert again == own
    with pytest.raises(UserError, match="KV heads are no groups of 4"):
        LowRank(0.5, 4).rank(parent.geometry)


def test_embeddings_of_the_parent_are_its_own() -> None:
    parent = tiny_parent("llama")
    blocks = random_blocks(parent.model.config.vocab_size)
    layers = ParentLayers(parent)
    losses = embedding_losses(layers, {"own": layers}, blocks.ids, blocks.mask, 4)
    assert len(losses["own"]) == len(blocks.ids) and np.abs(losses["own"]).max() < 1e-6


def test_every_way_is_named_once() -> None:
    for subject in SUBJECTS.values():
        names = [way.name for way in subject.ways]
        assert len(set(names)) == len(names)
