"""Results as tables: a DataFrame with numbers, the same as text, for the terminal and as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from gqasearch.reporting.data import MethodResult, ReportData
from gqasearch.reporting.distance import HIDDEN_ERROR, Distance, distance_of
from gqasearch.reporting.numbers import number_text

BASELINE = "neighbour grouping + mean merge at the same KV budget"
_HEADERS = {
    "kv_ratio": "KV\nratio",
    "label": "grouping",
    "merge": "merge",
    "perplexity": "held-out\nperplexity",
    "kl": "KL, nats\nper token",
    "hidden_error": "hidden-\nstate error",
    "kl_of_baseline": "of\nbaseline",
    "embedding_cosine": "embeddings'\ncosine",
    "kv_bytes_per_token": "KV bytes\nper token",
    "parameters": "param-\neters",
    "seconds": "seconds",
}
LEFT_ALIGNED = ("label", "merge")


def results_frame(data: ReportData) -> pd.DataFrame:
    """One row per result, the parent first, then by falling KV ratio in the order given.

    ``kl_of_baseline``: the KL as a fraction of that of neighbour + mean with as many KV heads; NaN where
    that baseline was not run. ``is_best``: lowest KL of two or more results with as many KV heads. Of models without a
    head both are of the hidden-state error (``distance_of``).
    """
    frame = pd.DataFrame([_parent_row(data), *(_row(result) for result in data.results)])
    frame = frame.sort_values("kv_ratio", ascending=False, kind="stable")
    frame = frame.sort_values("is_parent", ascending=False, kind="stable").reset_index(drop=True)
    distances = frame[distance_of(frame).column]
    baselines = distances[frame["is_baseline"]].groupby(frame["kv_heads_total"]).first()
    baseline = frame["kv_heads_total"].map(baselines).where(~frame["is_parent"])
    frame["kl_of_baseline"] = distances / baseline.where(baseline > 0)
    converted = distances.mask(frame["is_parent"])
    peers = converted.groupby(frame["kv_heads_total"])
    frame["is_best"] = (converted == peers.transform("min")) & (peers.transform("count") > 1)
    return frame


def distance_by_ratio(frame: pd.DataFrame) -> pd.DataFrame:
    """KL to the parent, or what stands in its place: a row per KV ratio, a column per name, in the order first met."""
    converted = frame[~frame["is_parent"]]
    table = converted.pivot(index="kv_ratio", columns="name", values=distance_of(frame).column)
    return table[list(dict.fromkeys(converted["name"]))].sort_index(ascending=False)


def results_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV, full precision, a header line; without the columns that only serve display."""
    return frame.drop(columns=["name", "is_best"]).to_csv(index=False, lineterminator="\n")


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that are shown, every cell as text; those that not every model has only where measured."""
    text = pd.DataFrame(
        {
            "kv_ratio": frame["kv_ratio"].map(lambda ratio: f"{ratio:.3g}"),
            "label": frame["label"],
            "merge": frame["merge"],
            "perplexity": frame["perplexity"].map(_perplexity_text),
            "kl": frame["kl"].map(number_text).mask(frame["is_parent"], "0"),
            "hidden_error": frame["hidden_error"].map(number_text).mask(frame["is_parent"], "0"),
            "kl_of_baseline": frame["kl_of_baseline"].map(share_text).mask(frame["is_baseline"], "baseline"),
            "embedding_cosine": frame["embedding_cosine"]
            .map(lambda cosine: f"{cosine:.4f}")
            .mask(frame["is_parent"], "1"),
            "kv_bytes_per_token": frame["kv_bytes_per_token"].map(lambda count: f"{count:,}"),
            "parameters": frame["parameters"].map(count_text),
            "seconds": frame["seconds"].map(_seconds_text),
        }
    )
    measured = frame[["perplexity", "kl", "hidden_error", "embedding_cosine"]][~frame["is_parent"]].notna().any()
    shown = {**measured.to_dict(), "kl_of_baseline": frame["is_baseline"].any()}
    return text.drop(columns=[name for name, is_shown in shown.items() if not is_shown])


def headers(text: pd.DataFrame) -> list[str]:
    """The heading of every column of :func:`as_text`; may hold a line break."""
    return [_HEADERS[str(column)] for column in text.columns]


def stored_words(record: Mapping[str, Any]) -> str:
    """In what numbers the KV bytes of a record of ``metrics.json`` are counted; older ones do not say their bits."""
    bits = record.get("kv_value_bits")
    return "as stored" if bits is None else f"in {bits} bits as stored"


def results_table(data: ReportData) -> Table:
    """The results for a terminal of 100 columns; the lowest KL of each KV budget is bold."""
    frame = results_frame(data)
    text = as_text(frame)
    table = Table(title=Text(data.title), box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for column, header in zip(text.columns, headers(text), strict=True):
        left = column in LEFT_ALIGNED
        table.add_column(header, justify="left" if left else "right", overflow="fold", vertical="bottom")
    kv_bytes = f"KV bytes: {stored_words(vars(data.parent))}"
    table.caption = f"baseline: {BASELINE}\n{kv_bytes}" if "kl_of_baseline" in text.columns else kv_bytes
    for cells, best, starts in zip(text.to_numpy().tolist(), frame["is_best"], starts_budget(frame), strict=True):
        if starts:
            table.add_section()
        else:
            cells[0] = ""
        # As Text, a label with [brackets] is no markup.
        table.add_row(*map(Text, cells), style="bold" if best else None)
    return table


def starts_budget(frame: pd.DataFrame) -> list[bool]:
    """Of every row of :func:`results_frame`, whether it is the first with so many KV heads."""
    budgets = list(zip(frame["is_parent"], frame["kv_heads_total"], strict=True))
    return [row == 0 or budgets[row - 1] != budget for row, budget in enumerate(budgets)]


def headlines(frame: pd.DataFrame) -> list[str]:
    """One sentence per KV budget: its lowest KL, or what stands in its place, and what that is of the baseline's."""
    sentences = []
    distance = distance_of(frame)
    for _, rows in frame[~frame["is_parent"]].groupby("kv_heads_total", sort=False):
        best = rows.sort_values(distance.column, kind="stable").iloc[0]
        sentence = f"KV ratio {best['kv_ratio']:.3g}: {best['name']} {_quality_words(best, frame, distance)}"
        if not best["is_baseline"] and np.isfinite(best["kl_of_baseline"]):
            sentence += f"; its {distance.name} is {share_text(best['kl_of_baseline'])} of the GQA baseline's"
        sentences.append(sentence + ".")
    return sentences


def _quality_words(best: pd.Series[Any], frame: pd.DataFrame, distance: Distance) -> str:
    if distance is HIDDEN_ERROR:
        cosine, error = best["embedding_cosine"], number_text(best[distance.column])
        return f"has embeddings with a mean cosine of {cosine:.4f} to the parent's, hidden-state error {error}"
    return (
        f"is {number_text(best['kl'])} nats per token from the parent, perplexity "
        f"{_perplexity_text(best['perplexity'])} against {_perplexity_text(frame['perplexity'][0])}"
    )


def share_text(share: float) -> str:
    """A fraction of the baseline: 1/9.38 below a half, else 0.93 or 1.30; empty for NaN."""
    if not np.isfinite(share):
        return ""
    if share <= 0:
        return "0"
    return f"1/{number_text(1 / share)}" if share < 0.5 else f"{share:.2f}"


def _row(result: MethodResult) -> dict[str, object]:
    return {
        "kv_ratio": result.kv_ratio,
        "kv_heads_total": result.kv_heads_total,
        "name": result.name,
        "label": result.label,
        "method": result.method,
        "fitness": result.fitness,
        "merge": result.merge,
        "perplexity": result.perplexity,
        "kl": result.kl,
        "hidden_error": result.hidden_error,
        "embedding_cosine": result.embedding_cosine,
        "kv_bytes_per_token": result.kv_bytes_per_token,
        "parameters": result.parameters,
        "seconds": result.seconds,
        "is_parent": False,
        "is_baseline": result.is_baseline,
    }


def _parent_row(data: ReportData) -> dict[str, object]:
    parent = data.parent
    return {
        "kv_ratio": 1.0,
        "kv_heads_total": parent.kv_heads_total,
        "name": "parent",
        "label": "parent (unconverted)",
        "method": "",
        "fitness": None,
        "merge": "",
        "perplexity": parent.perplexity,
        "kl": 0.0,
        "hidden_error": 0.0,
        "embedding_cosine": np.nan,
        "kv_bytes_per_token": parent.kv_bytes_per_token,
        "parameters": parent.parameters,
        "seconds": np.nan,
        "is_parent": True,
        "is_baseline": False,
    }


def _perplexity_text(perplexity: float) -> str:
    return number_text(perplexity, 4)


def count_text(count: float) -> str:
    """Three digits and K, M or B: padded heads and groups of unequal size change the number of parameters."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= 0.9995 * unit:
            size = count / unit
            return f"{size:.{2 - min(2, len(str(int(size + 0.0005))) - 1)}f} {letter}"
    return f"{count:.0f}"


def _seconds_text(seconds: float) -> str:
    return "" if np.isnan(seconds) else f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"
