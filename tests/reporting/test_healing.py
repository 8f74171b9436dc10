"""Healing runs as tables, a figure and a page."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest

from gqasearch.reporting.healing import HealingData, HealingPoint
from gqasearch.reporting.healing_html import render_healing
from gqasearch.reporting.healing_tables import (
    curves,
    figures_frame,
    figures_table,
    headlines,
    history_frame,
    levels,
    tokens_frame,
    tokens_table,
)
from gqasearch.reporting.plots import figure_png
from gqasearch.reporting.plots.healing_curves import healing_figure, short_count
from gqasearch.reporting.text_table import rich_table
from tests.reporting.healings import STARTS, TOKENS, healing_data, healing_run
from tests.reporting.test_html import SCRIPT, Page

PLAIN, OURS = STARTS[0][0], STARTS[-1][0]


@pytest.fixture(scope="module")
def data() -> HealingData:
    return healing_data()


def two(first: list[tuple[int, float]], second: list[tuple[int, float]]) -> HealingData:
    """Two starts, A and B, with these (tokens, KL)."""
    base = healing_data(1, STARTS[:2])
    runs = []
    for name, run, points in zip("AB", base.runs, (first, second), strict=True):
        history = tuple(HealingPoint(tokens // 100, tokens, kl, 20.0) for tokens, kl in points)
        runs.append(replace(run, label=name, history=history, kept=history[-1], tokens=history[-1].tokens))
    return replace(base, runs=tuple(runs))


def test_tokens_to_a_level_are_those_of_the_first_evaluation_at_or_below_it() -> None:
    slow = [(0, 4.0), (100, 3.0), (200, 2.0), (400, 1.0)]
    fast = [(0, 2.5), (100, 1.0), (200, 1.1), (400, 0.5)]
    frame = tokens_frame(two(slow, fast))
    found = {(row.kl, row.start): (row.tokens, row.reached) for row in frame.itertuples()}
    assert found == {
        (2.5, "A"): (200, True),
        (2.5, "B"): (0, True),
        (1.0, "A"): (400, True),
        (1.0, "B"): (100, True),
        (0.5, "A"): (400, False),
        (0.5, "B"): (400, True),
    }
    ratios = frame.set_index(["kl", "start"])["ratio"]
    assert ratios[1.0, "B"] == 0.25 and ratios[2.5, "B"] == 0 and np.isnan(ratios[0.5, "A"])
    rows = tokens_table(two(slow, fast)).rows
    assert ("B", "100", "1/4.0") in rows and ("A", "not reached in 400", "") in rows
    assert ("KL 1.00: A, at its end", "", "") in rows


def test_a_share_of_what_was_never_reached_is_a_bound() -> None:
    rows = tokens_table(two([(0, 4.0), (100, 3.0), (800, 2.0)], [(0, 3.5), (100, 1.0)])).rows
    below = rows[[row[0] for row in rows].index("KL 1.00: B, at its end") + 1 :]
    assert below == (("A", "not reached in 800", ""), ("B", "100", "< 1/8.0"))


def test_every_level_is_reached_by_whose_it_is_in_all_seeds(data: HealingData) -> None:
    frame = tokens_frame(data)
    for level in levels(data):
        owners = [words.rpartition(", ")[0] for words in level.name.split("; ")]
        mine = frame[(frame["kl"] == level.kl) & frame["start"].isin(owners)]
        assert len(mine) == len(owners) and mine["reached"].all()
    kls = [level.kl for level in levels(data)]
    assert kls == sorted(kls, reverse=True)
    assert max(run.history[0].kl for run in data.runs) not in kls  # all begin there or better


def test_a_run_that_kept_better_weights_than_its_last_is_asked_for_those() -> None:
    base = two([(0, 4.0), (100, 2.0)], [(0, 3.0), (100, 1.0), (200, 1.5)])
    kept = replace(base.runs[1], kept=base.runs[1].history[1])
    names = {level.name: level.kl for level in levels(replace(base, runs=(base.runs[0], kept)))}
    assert names["B, at its end"] == 1.0


def test_one_start_is_measured_by_halves_of_its_beginning() -> None:
    one = healing_data(1, STARTS[-1:])
    assert [level.name for level in levels(one)] == ["1/2 of the start's", "1/4 of the start's", "at the end"]
    assert [row[2] for row in tokens_table(one).rows] == ["196,608", "1,048,576", f"{TOKENS[-1]:,}"]
    worse = replace(one, runs=(replace(one.runs[0], kept=replace(one.runs[0].kept, kl=9.0)),))
    assert [level.name for level in levels(worse)] == ["at the end"]


def test_curves_are_medians_with_the_range_over_seeds(data: HealingData) -> None:
    table = curves(data, "kl")
    mine = table[table["start"] == PLAIN].set_index("tokens")
    assert list(mine.index) == list(TOKENS)
    assert mine.loc[TOKENS[1], ["median", "lowest", "highest"]].tolist() == pytest.approx([0.927, 0.9, 0.954])
    short = replace(data, runs=(*data.runs[:-1], healing_run(*STARTS[-1], seed=2, tokens=TOKENS[:4])))
    ends = curves(short, "kl").groupby("start")["tokens"].max()
    assert ends[OURS] == TOKENS[3] and ends[PLAIN] == TOKENS[-1]


def test_held_out_figures(data: HealingData) -> None:
    frame = figures_frame(data).set_index(["start", "state"])
    healed = [run.healed.kl for run in data.starts[OURS]]
    row = frame.loc[OURS, "healed"]
    assert (row["kl"], row["kl_lowest"], row["kl_highest"]) == (healed[1], healed[0], healed[2])
    assert (row["kl_low"], row["kl_high"]) == data.starts[OURS][1].healed.kl_interval
    table = figures_table(data)
    assert table.rows[0] == ("parent", "14.37", "0", "", "", "9,216")
    assert table.rows[2][-3:] == ("2.69-2.85", "3 alike", "2,304")
    assert len(figures_table(healing_data(1)).headers) == len(table.headers) - 1


def test_who_is_ahead_throughout_is_said_only_where_it_is_so(data: HealingData) -> None:
    assert f"{OURS} is ahead of every other start at all 13 points" in " ".join(headlines(data))
    crossing = two([(0, 4.0), (100, 1.0)], [(0, 3.0), (100, 2.0)])
    assert "ahead" not in " ".join(headlines(crossing))


def test_the_page_is_whole_offline_and_balanced(data: HealingData) -> None:
    source = render_healing(data)
    page = Page(source)
    text = " ".join(page.words)
    assert page.open == []
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    for words in (*data.starts, *data.notes, data.configuration, "not reached in", "medians over seeds"):
        assert words in text
    (table,) = [address for address in page.addresses if address.startswith("data:text/csv")]
    lines = base64.b64decode(table.partition("base64,")[2]).decode().splitlines()
    assert lines[0] == "start,seed,step,tokens,kl,perplexity"
    assert len(lines) == 1 + len(history_frame(data)) == 1 + 12 * len(TOKENS)


def test_every_string_is_escaped(data: HealingData) -> None:
    odd = replace(
        data,
        title=SCRIPT,
        runs=tuple(replace(run, label=run.label + SCRIPT) for run in data.runs),
        texts=tuple(replace(text, role=SCRIPT, source=SCRIPT, used_for=SCRIPT) for text in data.texts),
        configuration=SCRIPT,
        environment={SCRIPT: SCRIPT},
        notes=(SCRIPT,),
    )
    page = Page(render_healing(odd))
    assert "script" not in page.tags and page.open == []
    assert "".join(page.words).count("<script>alert(1)</script>") > 10


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("starts", [STARTS, STARTS[-1:]])
def test_figures_are_the_same_bytes_and_tables_print(seeds: int, starts: tuple[tuple[str, float, float], ...]) -> None:
    made = healing_data(seeds, starts)
    assert figure_png(healing_figure(made)) == figure_png(healing_figure(made))
    for axes in healing_figure(made).axes:
        assert axes.has_data() and axes.get_xlim()[0] <= 0 <= axes.get_xlim()[1]
    for table in (figures_table(made), tokens_table(made)):
        assert all(len(row) == len(table.headers) for row in table.rows)
        assert rich_table(table).row_count == len(table.rows)


def test_the_parents_perplexity_is_a_line_where_it_is_known(data: HealingData) -> None:
    kl, perplexity = healing_figure(data).axes
    without = healing_figure(replace(data, validation_perplexity=None)).axes[1]
    assert [text.get_text() for text in perplexity.texts] == ["parent"]
    assert not kl.texts and not without.texts
    assert perplexity.get_ylim()[0] < 15.0


def test_a_start_alone_and_nothing_finite_still_draw() -> None:
    base = healing_data(1, STARTS[:1])
    only = replace(base.runs[0], history=base.runs[0].history[:1], kept=base.runs[0].history[0])
    assert render_healing(replace(base, runs=(only,)))
    odd = tuple(replace(point, kl=0.0, perplexity=np.inf) for point in base.runs[0].history)
    assert render_healing(replace(base, runs=(replace(base.runs[0], history=odd, kept=odd[-1]),)))


def test_nothing_to_report_is_refused(data: HealingData) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        replace(data, runs=())


def test_short_counts() -> None:
    assert [short_count(n) for n in (0, 999, 2048, 65_536, 524_288, 2_097_152)] == [
        "0",
        "999",
        "2.05k",
        "65.5k",
        "524k",
        "2.1M",
    ]
