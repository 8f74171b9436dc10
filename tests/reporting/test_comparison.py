"""A comparison as tables, figures and a page."""

from __future__ import annotations

import base64
from dataclasses import replace

import pandas as pd
import pytest

from gqasearch.reporting.comparison import ComparisonData, interval_text, ranking_tables, winner_tables
from gqasearch.reporting.comparison_html import comparison_figures, render_comparison
from gqasearch.reporting.plots import figure_png
from tests.reporting.comparisons import FITNESS, comparison_data
from tests.reporting.test_html import SCRIPT, Page


@pytest.fixture(scope="module")
def data() -> ComparisonData:
    return comparison_data()


def test_a_blind_fitness_is_called_blind_in_words(data: ComparisonData) -> None:
    tables = ranking_tables(data.ranking)
    assert len(tables) == 4
    assert [table.title.partition(": ")[2] for table in tables[:2]] == [
        "40 random groupings",
        "the 18 best groupings that the searches met",
    ]
    for table in tables:
        cells = {row[0]: row for row in table.rows}
        assert cells["weight-sharing-error"][-1] == "blind: values differ by 0.4%"
        assert cells["activation-cosine"][-1] == "misleading"
        assert cells["KL, other half of text"][-1] == "ceiling"
        assert table.dim == ([row[0] for row in table.rows].index("KL, other half of text"),)
        first = float(table.rows[0][1].split()[0])
        assert first == max(float(row[1].split()[0]) for row in table.rows)


def test_figures_do_not_contradict_the_verdict_beside_them() -> None:
    def text(value: float, low: float, high: float) -> str:
        return interval_text(pd.Series({"spearman": value, "spearman_low": low, "spearman_high": high}), "spearman")

    assert text(0.497, 0.3, 0.6) == "0.497 [0.30, 0.60]"  # weak: below 0.5
    assert text(0.79996, 0.7, 0.9) == "0.80 [0.70, 0.90]"  # no more than four digits
    assert text(0.3, 0.004, 0.5) == "0.30 [0.004, 0.50]"  # not blind
    assert text(-0.2, -0.4, -0.002) == "-0.20 [-0.40, -0.002]"  # misleading
    assert text(0.5, -0.0, 1.0) == "0.50 [0.00, 1.00]"


def test_methods_are_named_only_where_there_are_several(data: ComparisonData) -> None:
    assert {row[0] for row in winner_tables(data.winners)[0].rows} == {*FITNESS, "neighbour (no search)"}
    several = data.winners.assign(method=["evolution", "random", *data.winners["method"].iloc[2:]])
    names = {row[0] for row in winner_tables(several)[0].rows}
    assert "neighbour (no search)" in names
    assert any(name.endswith(", random") for name in names)


def test_the_page_is_whole_offline_and_balanced(data: ComparisonData) -> None:
    source = render_comparison(data)
    page = Page(source)
    text = " ".join(page.words)
    assert page.open == []
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    for words in (
        *FITNESS,
        *data.rules,
        *data.notes,
        data.configuration,
        "KV ratio 0.25",
        "KL, other half of text",
    ):
        assert words in text
    tables = [address for address in page.addresses if address.startswith("data:text/csv")]
    assert len(tables) == 3
    assert base64.b64decode(tables[0].partition("base64,")[2]).decode().startswith("merge,refine,kv_ratio,pool")


def test_every_string_of_a_comparison_is_escaped(data: ComparisonData) -> None:
    def with_script(frame: pd.DataFrame) -> pd.DataFrame:
        words = {name: SCRIPT for name in ("merge", "verdict") if name in frame}
        changed = frame.assign(**words)
        if "fitness" in frame:
            changed["fitness"] += SCRIPT
        return changed.rename(columns={"kl": f"kl{SCRIPT}"}) if "held_out_kl" in frame else changed

    one = comparison_data(fitness=("kl",), ratios=(0.5,))
    odd = replace(
        one,
        title=SCRIPT,
        ranking=with_script(one.ranking),
        sample=with_script(one.sample),
        winners=with_script(one.winners),
        rules=(SCRIPT,),
        notes=(SCRIPT,),
        texts=tuple(replace(text, role=SCRIPT, source=SCRIPT, used_for=SCRIPT) for text in one.texts),
        configuration=SCRIPT,
        environment={SCRIPT: SCRIPT},
    )
    page = Page(render_comparison(odd))
    assert "script" not in page.tags
    assert page.open == []
    assert "".join(page.words).count("<script>alert(1)</script>") > 10


def test_what_was_not_asked_is_left_out(data: ComparisonData) -> None:
    nothing = pd.DataFrame()
    ranked = render_comparison(replace(data, winners=nothing))
    assert "Does the fitness rank" in ranked
    assert "Does optimising" not in ranked
    searched = render_comparison(replace(data, ranking=nothing, sample=nothing))
    assert "Does the fitness rank" not in searched
    assert "Does optimising" in searched


def test_figures_are_the_same_bytes_and_none_is_empty(data: ComparisonData) -> None:
    first, second = ({name: figure_png(figure) for name, figure in comparison_figures(data).items()} for _ in range(2))
    assert list(first) == ["correlations", "ranks-optimal-0.5", "ranks-optimal-0.25", "winners"]
    assert first == second
    for figure in comparison_figures(data).values():
        assert all(axes.has_data() for axes in figure.axes)
