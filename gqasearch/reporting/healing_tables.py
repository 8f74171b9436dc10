"""Healing runs as people read them: frames of numbers, tables of text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gqasearch.reporting.healing import HealingData, HeldOut
from gqasearch.reporting.numbers import number_text
from gqasearch.reporting.text_table import TextTable

FIGURE_HEADERS = ("model", "held-out\nperplexity", "KL, nats\nper token", "95% over\ntext", "KL over\nseeds")


@dataclass(frozen=True)
class Level:
    """A validation KL to be reached; ``name``: whose it is."""

    kl: float
    name: str


def history_frame(data: HealingData) -> pd.DataFrame:
    """One row per evaluation of every run: start, seed, step, tokens, kl, perplexity."""
    rows = [
        {
            "start": run.label,
            "seed": run.seed,
            "step": p.step,
            "tokens": p.tokens,
            "kl": p.kl,
            "perplexity": p.perplexity,
        }
        for run in data.runs
        for p in run.history
    ]
    return pd.DataFrame(rows)


def history_csv(data: HealingData) -> str:
    """The histories as CSV, full precision, a header line."""
    return history_frame(data).to_csv(index=False, lineterminator="\n")


def curves(data: HealingData, figure: str) -> pd.DataFrame:
    """``figure`` ("kl" or "perplexity") over seeds: start, tokens, median, lowest, highest, seeds.

    Only tokens at which every run of a start was measured: a median over changing runs would jump.
    """
    frame = history_frame(data)
    runs = {label: len(of_start) for label, of_start in data.starts.items()}
    by_tokens = frame.groupby(["start", "tokens"], sort=False)[figure]
    table = by_tokens.agg(median="median", lowest="min", highest="max", seeds="count").reset_index()
    return table[table["seeds"] == table["start"].map(runs)].reset_index(drop=True)


def levels(data: HealingData) -> list[Level]:
    """Validation KLs that are worth reaching, the highest first.

    What every start ends at and, but for the worst, what it begins with: the highest of its seeds, so that all reach
    it. With one start alone, halves of its own beginning instead.
    """
    if len(data.starts) == 1:
        return _halvings(data)
    found: dict[float, list[str]] = {}
    for label, runs in data.starts.items():
        found.setdefault(max(run.history[0].kl for run in runs), []).append(f"{label}, before healing")
        found.setdefault(max(run.kept.kl for run in runs), []).append(f"{label}, at its end")
    worst = max(run.history[0].kl for run in data.runs)
    return [Level(kl, "; ".join(names)) for kl, names in sorted(found.items(), reverse=True) if kl < worst]


def _halvings(data: HealingData) -> list[Level]:
    start = max(run.history[0].kl for run in data.runs)
    end = max(run.kept.kl for run in data.runs)
    found, share = [], 2
    while start / share > end > 0:
        found.append(Level(start / share, f"1/{share} of the start's"))
        share *= 2
    return [*found, Level(end, "at the end")]


def tokens_frame(data: HealingData) -> pd.DataFrame:
    """One row per level and start: kl, level, start, tokens, reached, ratio.

    ``tokens``: to the first evaluation at or below the level, median over seeds (of two, the later); where that is not
    reached, all that the run was trained on, and ``reached`` is False. ``ratio``: of the tokens of the slowest start
    at this level, which is an upper bound where the slowest did not reach it.
    """
    rows = []
    for level in levels(data):
        needed = {
            label: _upper_median([run.tokens_to(level.kl) for run in runs]) for label, runs in data.starts.items()
        }
        trained = {label: float(max(run.history[-1].tokens for run in runs)) for label, runs in data.starts.items()}
        spent = {label: tokens if np.isfinite(tokens) else trained[label] for label, tokens in needed.items()}
        slowest = max(spent.values())
        for label, tokens in spent.items():
            reached = bool(np.isfinite(needed[label]))
            row = {"kl": level.kl, "level": level.name, "start": label, "tokens": tokens, "reached": reached}
            rows.append({**row, "ratio": tokens / slowest if reached and slowest > 0 else np.nan})
    return pd.DataFrame(rows, columns=["kl", "level", "start", "tokens", "reached", "ratio"])


def _upper_median(values: list[float]) -> float:
    """Always one of the values: a number of tokens at which something was measured."""
    return sorted(values)[len(values) // 2]


def tokens_table(data: HealingData) -> TextTable:
    """Tokens to reach each level, a section per level with the share of the slowest start's; one start: a row each."""
    title = "Tokens to a given validation KL"
    if len(data.starts) == 1:
        lines = [
            (number_text(row["kl"]), str(row["level"]), _tokens_cells(row, all_reach=True)[0])
            for _, row in tokens_frame(data).iterrows()
        ]
        return TextTable(title, ("KL", "", "tokens"), tuple(lines), left=(1,))
    rows: list[tuple[str, ...]] = []
    sections = []
    for _, part in tokens_frame(data).groupby("kl", sort=False):
        sections.append(len(rows))
        rows.append((f"KL {number_text(float(part['kl'].iloc[0]))}: {part['level'].iloc[0]}", "", ""))
        all_reach = bool(part["reached"].all())
        rows += [(str(row["start"]), *_tokens_cells(row, all_reach)) for _, row in part.iterrows()]
    headers = ("start", "tokens", "of the\nslowest's")
    return TextTable(title, headers, tuple(rows), left=(0,), sections=tuple(sections))


def _tokens_cells(row: pd.Series, all_reach: bool) -> tuple[str, str]:
    """262,144 and 1/8.0; with a "<" where a start never came there, so that its tokens are not known."""
    if not row["reached"]:
        return f"not reached in {row['tokens']:,.0f}", ""
    if row["tokens"] == 0 or not np.isfinite(row["ratio"]) or row["ratio"] == 1:
        return f"{row['tokens']:,.0f}", ""
    return f"{row['tokens']:,.0f}", f"{'' if all_reach else '< '}{_share(float(row['ratio']))}"


def _share(ratio: float) -> str:
    return f"1/{number_text(1 / ratio, 2)}" if ratio < 0.67 else f"{ratio:.2f}"


def figures_frame(data: HealingData) -> pd.DataFrame:
    """Held-out figures: the parent, then per start one row before and one after healing, medians over seeds.

    Columns: start, state, seeds, tokens, perplexity, kl, kl_low, kl_high (95% over text, of the seed in the middle),
    kl_lowest, kl_highest (over seeds), kv_bytes_per_token.
    """
    rows = [_figures("parent", "", [data.parent], 0)]
    for label, runs in data.starts.items():
        tokens = int(np.median([run.tokens for run in runs]))
        rows.append(_figures(label, "start", [run.start for run in runs], 0))
        rows.append(_figures(label, "healed", [run.healed for run in runs], tokens))
    return pd.DataFrame(rows)


def _figures(label: str, state: str, found: list[HeldOut], tokens: int) -> dict[str, object]:
    kls = [one.kl for one in found]
    middle = sorted(found, key=lambda one: one.kl)[(len(found) - 1) // 2]
    return {
        "start": label,
        "state": state,
        "seeds": len(found),
        "tokens": tokens,
        "perplexity": float(np.median([one.perplexity for one in found])),
        "kl": float(np.median(kls)),
        "kl_low": middle.kl_interval[0],
        "kl_high": middle.kl_interval[1],
        "kl_lowest": min(kls),
        "kl_highest": max(kls),
        "kv_bytes_per_token": middle.kv_bytes_per_token,
    }


def figures_table(data: HealingData) -> TextTable:
    """The held-out figures as text, a section per start; without the column over seeds where every start has one."""
    frame = figures_frame(data)
    several = bool((frame["seeds"] > 1).any())
    rows: list[tuple[str, ...]] = []
    sections = []
    for _, row in frame.iterrows():
        if row["state"] == "start":
            sections.append(len(rows))
            rows.append((str(row["start"]), *[""] * (5 if several else 4)))
        rows.append(_figure_cells(row, several))
    headers = (*FIGURE_HEADERS[: 5 if several else 4], "KV bytes,\nas stored")
    return TextTable("On held-out text", headers, tuple(rows), left=(0,), sections=tuple(sections))


def _figure_cells(row: pd.Series, several: bool) -> tuple[str, ...]:
    is_parent = not row["state"]
    names = {"": "parent", "start": "before healing", "healed": f"after {row['tokens']:,} tokens"}
    interval = "" if is_parent else f"{number_text(row['kl_low'])}-{number_text(row['kl_high'])}"
    kl = "0" if is_parent else number_text(row["kl"])
    over_seeds = (_over_seeds(row),) if several else ()
    return (
        names[row["state"]],
        number_text(row["perplexity"], 4),
        kl,
        interval,
        *over_seeds,
        f"{row['kv_bytes_per_token']:,}",
    )


def _over_seeds(row: pd.Series) -> str:
    if row["seeds"] == 1:
        return ""
    if row["kl_lowest"] == row["kl_highest"]:
        return f"{row['seeds']} alike"
    return f"{number_text(row['kl_lowest'])}-{number_text(row['kl_highest'])}"


def headlines(data: HealingData) -> list[str]:
    """What to remember: the best healed model, and where one start is ahead of the others throughout."""
    frame = figures_frame(data)
    healed = frame[frame["state"] == "healed"].sort_values("kl", kind="stable")
    best = healed.iloc[0]
    start = frame[(frame["state"] == "start") & (frame["start"] == best["start"])].iloc[0]
    found = [
        f"{best['start']}: healing on {best['tokens']:,} tokens takes the held-out KL from {number_text(start['kl'])} "
        f"to {number_text(best['kl'])}, perplexity from {number_text(start['perplexity'], 4)} to "
        f"{number_text(best['perplexity'], 4)} (parent: {number_text(data.parent.perplexity, 4)})."
    ]
    if len(data.starts) > 1 and (words := _ahead(data)):
        found.append(words)
    return found


def _ahead(data: HealingData) -> str:
    """Whether one start is lowest, in all its seeds, wherever all starts were measured."""
    table = curves(data, "kl")
    lowest = table.pivot(index="tokens", columns="start", values="lowest").dropna()
    highest = table.pivot(index="tokens", columns="start", values="highest").dropna()
    for label in data.starts:
        others = [other for other in data.starts if other != label]
        if len(lowest) and (highest[label] < lowest[others].min(axis=1)).all():
            return (
                f"{label} is ahead of every other start at all {len(lowest)} points measured, up to "
                f"{lowest.index.max():,} tokens."
            )
    return ""
