"""A comparison as people read it: tables of text for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gqasearch.reporting.data import TextUse
from gqasearch.reporting.numbers import number_text
from gqasearch.reporting.text_table import TextTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTING = ["merge", "refine", "kv_ratio"]
POOL_WORDS = {
    "random": "{} random groupings",
    "top": "the {} best groupings that the searches met",
}
NOTHING = "nothing"  # what the row without a search needs
RANKING_HEADERS = (
    "fitness",
    "Spearman\nwith KL",
    "Kendall\nwith KL",
    "Spearman with\nperplexity",
    "spread",
    "verdict",
)
QUALITY_HEADERS = ("minimised", "KL", "over seeds", "KL against\nno search", "p", "p against\nthe best", "verdict")
COST_HEADERS = ("minimised", "perplexity", "needs", "seconds", "evaluations", "tokens run")
FAIR, STRONG = 0.5, 0.8  # Spearman's correlations from which a fitness is called fair, and strong
NEAR_NOTHING = 0.01  # a spread below which a blind fitness is said to hardly differ


@dataclass(frozen=True, eq=False)
class ComparisonData:
    """All of a comparison's report. Frames are as ``gqasearch.comparison`` makes them; empty where not asked for.

    ``rules``: how the words in the tables are chosen. ``notes``: what a reader must know.
    """

    title: str
    ranking: pd.DataFrame
    sample: pd.DataFrame
    winners: pd.DataFrame
    rules: tuple[str, ...]
    notes: tuple[str, ...]
    texts: tuple[TextUse, ...]
    configuration: str
    environment: Mapping[str, str]

    def figures(self) -> dict[str, Figure]:
        """Name -> figure: "correlations", "ranks-MERGE-RATIO" of every condition, "winners"."""
        from gqasearch.reporting.comparison_html import comparison_figures

        return comparison_figures(self)


def ranking_tables(frame: pd.DataFrame) -> list[TextTable]:
    """One table per merge, KV ratio and pool: the fitness that ranks KL best first."""
    tables = []
    for words, part in _settings(frame):
        for pool, rows in part.groupby("pool", sort=False):
            by_kl = rows[rows["quality"] == "kl"].sort_values("spearman", ascending=False, kind="stable")
            by_perplexity = rows[rows["quality"] == "perplexity"].set_index("fitness")["spearman"]
            is_fitness = by_kl["fitness"].isin(by_perplexity.index)
            lines = [
                (
                    str(row["fitness"]),
                    interval_text(row, "spearman"),
                    _signed(row["kendall"]),
                    _signed(by_perplexity.get(str(row["fitness"]), np.nan)),
                    spread_text(float(row["spread"])) if fits else "",
                    verdict_text(row) if fits else "ceiling",
                )
                for fits, (_, row) in zip(is_fitness, by_kl.iterrows(), strict=True)
            ]
            title = f"{words}: {POOL_WORDS[str(pool)].format(rows['groupings'].iloc[0])}"
            dim = tuple(np.flatnonzero(~is_fitness).tolist())
            tables.append(TextTable(title, RANKING_HEADERS, tuple(lines), left=(0, 5), dim=dim))
    return tables


def winner_tables(frame: pd.DataFrame) -> list[TextTable]:
    """Two tables per merge and KV ratio, the lowest mean KL first: what the winners are worth, and what they cost."""
    tables = []
    for words, part in _settings(frame):
        baseline = float(part.loc[part["needs"] == NOTHING, "kl"].iloc[0])
        quality, cost = [], []
        for name, (_, row) in zip(winner_names(part), part.iterrows(), strict=True):
            tested = (share_change_text(row, baseline), p_text(row, "vs_no_search"), p_text(row, "vs_best"))
            quality.append((name, number_text(float(row["kl"])), _range(row), *tested, str(row["verdict"])))
            counts = (f"{row['seconds']:,.1f}", f"{row['evaluations']:,.0f}", f"{row['forward_tokens']:,.0f}")
            cost.append((name, number_text(float(row["perplexity"]), 4), str(row["needs"]), *counts))
        tables.append(TextTable(words, QUALITY_HEADERS, tuple(quality), left=(0, 6)))
        tables.append(TextTable(f"{words}: what a search costs", COST_HEADERS, tuple(cost), left=(0, 2)))
    return tables


def winner_names(part: pd.DataFrame) -> list[str]:
    """What each row minimised, and by which method where there are several."""
    several = part["method"][part["needs"] != NOTHING].nunique() > 1
    pairs = zip(part["fitness"], part["method"], part["needs"], strict=True)
    return [
        f"{fitness}, {method}" if several and needs != NOTHING else str(fitness) for fitness, method, needs in pairs
    ]


def setting_words(merge: object, refine: object, kv_ratio: object) -> str:
    """A setting as a heading."""
    fitted = "" if refine == "none" else f" + {refine}"
    return f"KV ratio {kv_ratio:g}, {merge}{fitted}" + (", nothing refined" if refine == "none" else "")


def verdict_text(row: pd.Series) -> str:
    """The verdict; of a blind fitness whose values hardly differ, by how much they do."""
    verdict = str(row["verdict"])
    if verdict == "blind" and float(row["spread"]) < NEAR_NOTHING:
        return f"blind: values differ by {spread_text(float(row['spread']))}"
    return verdict


def interval_text(row: pd.Series, name: str) -> str:
    """0.83 [0.71, 0.90]; with more digits where two would contradict the verdict, as 0.497 that is weak."""
    low, high = (_signed(row[f"{name}_{end}"], (0.0,)) for end in ("low", "high"))
    return f"{_signed(row[name], (FAIR, STRONG))} [{low}, {high}]"


def share_change_text(row: pd.Series, baseline: float) -> str:
    """The difference from no search as a share of its KL, with its interval: -14% [-17, -11]; 0 for itself."""
    mean, low, high = (100 * float(row[f"vs_no_search{end}"]) / baseline for end in ("", "_low", "_high"))
    return "0" if mean == low == high == 0 else f"{mean:+.1f}% [{low:+.1f}, {high:+.1f}]"


def p_text(row: pd.Series, name: str) -> str:
    """The adjusted p; empty where nothing differs."""
    if row[name] == row[f"{name}_low"] == row[f"{name}_high"] == 0:
        return ""
    return "<0.001" if row[f"{name}_p"] < 0.001 else f"{row[f'{name}_p']:.3f}"


def spread_text(spread: float) -> str:
    """How much values differ, as a share of their median."""
    if not np.isfinite(spread):
        return ""
    return "0%" if spread == 0 else f"{100 * spread:.2g}%" if spread < 0.995 else f"{100 * spread:,.0f}%"


def _settings(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    if frame.empty:
        return
    for key, part in frame.groupby(SETTING, sort=False):
        yield setting_words(*key), part


def _range(row: pd.Series) -> str:
    if row["seeds"] == 1:
        return ""
    if row["different_groupings"] == 1:
        return f"{row['seeds']} alike"
    return f"{number_text(float(row['kl_lowest']))}-{number_text(float(row['kl_highest']))}"


def _signed(value: float, bounds: tuple[float, ...] = ()) -> str:
    """Two digits, no minus before zero; up to four where the value lies on one side of a bound, its text on another.

    >>> [_signed(value, (0.0, 0.5)) for value in (0.497, 0.496, 0.494, 0.503, -0.004, 0.0)]
    ['0.497', '0.496', '0.49', '0.503', '-0.004', '0.00']
    """
    if not np.isfinite(value):
        return ""
    for digits in (2, 3, 4):
        text = f"{value:.{digits}f}"
        if all(np.sign(float(text) - bound) == np.sign(value - bound) for bound in bounds):
            break
    else:
        text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text
