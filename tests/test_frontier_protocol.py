"""The protocol of papers, tiny: its windows, its check of the parent, its rows, rounded caches under any tool."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer

from experiments.frontier.protocol import command
from experiments.frontier.protocol.plan import plan
from experiments.frontier.protocol.published import PROTOCOLS, TASKS
from experiments.frontier.protocol.rounding_cache import cache_rounded
from experiments.frontier.protocol.texts import ProtocolText, hub_texts, windows
from gqasearch.embedded.identifiers import NAME
from gqasearch.errors import UserError
from gqasearch.evaluation import ParentLayers, RoundedLayers, evaluate_quality, model_runner
from gqasearch.models import load_parent
from gqasearch.rounding import parse_format
from tests.samples import random_text, text_file
from tests.tiny_models import save_checkpoint, tiny_model, tiny_parent

LENGTH = 32
PUBLISHED = PROTOCOLS["llama-2-7b"]


def tiny(tmp_path: Path) -> Path:
    return save_checkpoint(tiny_model("llama"), tmp_path / "tiny")


def test_perplexity_is_that_of_papers(tmp_path: Path) -> None:
    parent = load_parent(str(tiny(tmp_path)))
    whole = random_text(2000)
    blocks = windows(parent.tokenizer, ProtocolText("t", str, lambda: whole), LENGTH)  # type: ignore[arg-type]
    ids = parent.tokenizer(whole, return_tensors="pt")["input_ids"]  # type: ignore[misc]
    losses = []  # as GPTQ's code has it: window by window, each loss times the length, over all tokens
    count = ids.numel() // LENGTH
    for start in range(0, count * LENGTH, LENGTH):
        window = ids[:, start : start + LENGTH]
        with torch.no_grad():
            logits = parent.model(window).logits[:, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits[0], window[0, 1:]) * LENGTH)
    quality, _ = evaluate_quality(ParentLayers(parent), {}, blocks, batch_blocks=1)
    assert len(blocks.ids) == count > 3
    assert quality.perplexity == pytest.approx(math.exp(float(torch.stack(losses).sum()) / (count * LENGTH)), rel=1e-5)
    few = windows(parent.tokenizer, ProtocolText("t", str, lambda: whole, most=2), LENGTH)  # type: ignore[arg-type]
    assert torch.equal(few.ids, blocks.ids[:2])
    with pytest.raises(UserError, match="fewer than a window of 99999"):
        windows(parent.tokenizer, ProtocolText("t", str, lambda: whole), 99999)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", ["4", "k8v4"])
def test_any_tool_sees_the_rounded_cache(bits: str) -> None:
    parent = tiny_parent("llama")
    ids = torch.randint(3, parent.model.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    kv = parse_format(bits)
    wanted = RoundedLayers(ParentLayers(parent), kv)(ids, mask)
    plain = model_runner(parent.model)(ids, mask)
    with cache_rounded(parent.model, kv), torch.no_grad():
        found = parent.model(input_ids=ids).logits
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)
    assert torch.equal(model_runner(parent.model)(ids, mask), plain)
    with (
        pytest.raises(UserError, match="leaves recent tokens unrounded"),
        cache_rounded(parent.model, parse_format("kivi4")),
    ):
        pass


def test_rows_keep_the_bytes_that_they_say() -> None:
    shape = tiny_parent("llama").geometry
    for head_dim, formats in ((128, ["k8v4", "4", "4", "4"]), (8, ["4", "4", "4", "4"])):
        from dataclasses import replace

        rows = list(plan(replace(shape, head_dim=head_dim)))
        both = rows[1::2]
        assert [row.share for row in rows[::2]] == [row.share for row in both] == [0.5, 0.3, 0.25, 0.2]
        assert [row.kv_bits for row in both] == formats
        for row in both:
            bits = parse_format(row.kv_bits or "").bytes_per_token(1, 1, head_dim) / (4 * head_dim)
            assert bits * row.settings["kv_ratio"] == pytest.approx(row.share) or row.way == "bits"
            assert bits * row.settings["kv_ratio"] <= row.share + 1e-9


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["frontier", "--protocol", "llama-2-7b", *words])
    command.main()


def test_the_whole_protocol_on_a_tiny_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    own = ("--model", str(tiny(tmp_path)), "--text", str(text_file(tmp_path)), "--output-dir", str(tmp_path / "out"))
    sizes = ("--samples", "8", "--length", str(LENGTH), "--shares", "0.3", "--tasks", NAME, "--limit", "3")
    quick = ("--set", "refine=none", "max_evaluations=5")
    with pytest.raises(typer.Exit):
        call(monkeypatch, *own, *sizes)
    assert "5.47 is WikiText-2's; give --expected-perplexity or --any-parent" in spoken(capsys)
    with pytest.raises(typer.Exit):
        call(monkeypatch, *own, *sizes, "--expected-perplexity", "2.5")
    assert "the parent's perplexity on text is" in spoken(capsys)
    assert not (tmp_path / "out" / command.FILE).exists()
    call(monkeypatch, *own, *sizes, *quick, "--any-parent")
    rows = pd.read_csv(tmp_path / "out" / command.FILE, dtype={"bits": str}).set_index("way")
    assert rows.index.tolist() == ["parent", "heads", "heads and bits"]
    assert rows.loc["heads", "kl text"] > 0 and rows.loc["heads", "kv_share"] == pytest.approx(1 / 3)
    assert rows.loc["heads and bits", "kv_share"] <= 0.33 and rows.loc["heads and bits", "bits"] == "4"
    assert rows["tasks"].between(0, 100).all()
    shown = spoken(capsys)
    assert "ReCalKV" in shown and "published" in shown and "measured" in shown
    monkeypatch.setattr(command, "run", lambda *_, **__: pytest.fail("it is there"))
    call(monkeypatch, *own, *sizes, *quick, "--any-parent")


def spoken(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def test_published_rows_are_told_as_such() -> None:
    parent = {"calibration": "", "share": 1.0, "way": "parent", "bits": "16", "tasks": 60.0}
    rows = pd.DataFrame([{**parent, "perplexity wikitext-2": 5.47, "perplexity c4": 7.26}])
    shown = command.table(rows, PUBLISHED)
    assert shown["source"].tolist() == ["measured"] + ["published"] * len(PUBLISHED.rows)
    assert shown["KV kept"].tolist()[:2] == ["100%", "100%"] and len(TASKS) == 6


def test_without_a_hub_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"Salesforce/wikitext cannot be had.*give --text FILE"):
        hub_texts()["wikitext-2"].test()
