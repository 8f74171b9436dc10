"""Results as tables: a DataFrame with numbers, the same as text, for the terminal and as CSV."""

from __future__ import annotations

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from gqasearch.reporting.data import MethodResult, ReportData

BASELINE = "neighbour grouping + mean merge at the same KV budget"
_HEADERS = {
    "kv_ratio": "KV\nratio",
    "label": "grouping",
    "merge": "merge",
    "perplexity": "held-out\nperplexity",
    "kl": "KL, nats\nper token",
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
    that baseline was not run. ``is_best``: lowest KL of two or more results with as many KV heads.
    """
    frame = pd.DataFrame([_parent_row(data), *(_row(result) for result in data.results)])
    frame = frame.sort_values("kv_ratio", ascending=False, kind="stable")
    frame = frame.sort_values("is_parent", ascending=False, kind="stable").reset_index(drop=True)
    baselines = frame[frame["is_baseline"]].drop_duplicates("kv_heads_total").set_index("kv_heads_total")["kl"]
    baseline = frame["kv_heads_total"].map(baselines).where(~frame["is_parent"])
    frame["kl_of_baseline"] = frame["kl"] / baseline.where(baseline > 0)
    converted = frame["kl"].mask(frame["is_parent"])
    peers = converted.groupby(frame["kv_heads_total"])
    frame["is_best"] = (converted == peers.transform("min")) & (peers.transform("count") > 1)
    return frame


def kl_by_ratio(frame: pd.DataFrame) -> pd.DataFrame:
    """KL to the parent: one row per KV ratio, one column per name (grouping + merge), in the order first met."""
    converted = frame[~frame["is_parent"]]
    table = converted.pivot(index="kv_ratio", columns="name", values="kl")
    return table[list(dict.fromkeys(converted["name"]))].sort_index(ascending=False)


def results_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV, full precision, a header line; without the columns that only serve display."""
    return frame.drop(columns=["name", "is_best"]).to_csv(index=False, lineterminator="\n")


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that are shown, every cell as text; the column of the baseline only where one was run."""
    text = pd.DataFrame(
        {
            "kv_ratio": frame["kv_ratio"].map(lambda ratio: f"{ratio:.3g}"),
            "label": frame["label"],
            "merge": frame["merge"],
            "perplexity": frame["perplexity"].map(_perplexity_text),
            "kl": frame["kl"].map(_kl_text).mask(frame["is_parent"], "0"),
            "kl_of_baseline": frame["kl_of_baseline"].map(share_text).mask(frame["is_baseline"], "baseline"),
            "embedding_cosine": frame["embedding_cosine"]
            .map(lambda cosine: f"{cosine:.4f}")
            .mask(frame["is_parent"], "1"),
            "kv_bytes_per_token": frame["kv_bytes_per_token"].map(lambda count: f"{count:,}"),
            "parameters": frame["parameters"].map(count_text),
            "seconds": frame["seconds"].map(_seconds_text),
        }
    )
    own = {"kl_of_baseline": frame["is_baseline"].any(), "embedding_cosine": frame["embedding_cosine"].notna().any()}
    return text.drop(columns=[name for name, shown in own.items() if not shown])


def headers(text: pd.DataFrame) -> list[str]:
    """The heading of every column of :func:`as_text`; may hold a line break."""
    return [_HEADERS[str(column)] for column in text.columns]


def results_table(data: ReportData) -> Table:
    """The results for a terminal of 100 columns; the lowest KL of each KV budget is bold."""
    frame = results_frame(data)
    text = as_text(frame)
    table = Table(title=Text(data.title), box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for column, header in zip(text.columns, headers(text), strict=True):
        left = column in LEFT_ALIGNED
        table.add_column(header, justify="left" if left else "right", overflow="fold", vertical="bottom")
    if "kl_of_baseline" in text.columns:
        table.caption = f"baseline: {BASELINE}"
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
    """One sentence per KV budget: its lowest KL, and what that is of the baseline's."""
    sentences = []
    parent = _perplexity_text(frame["perplexity"][0])
    for _, rows in frame[~frame["is_parent"]].groupby("kv_heads_total", sort=False):
        best = rows.sort_values("kl", kind="stable").iloc[0]
        sentence = (
            f"KV ratio {best['kv_ratio']:.3g}: {best['name']} is {_kl_text(best['kl'])} nats per token from the "
            f"parent, perplexity {_perplexity_text(best['perplexity'])} against {parent}"
        )
        if not best["is_baseline"] and np.isfinite(best["kl_of_baseline"]):
            sentence += f"; its KL is {share_text(best['kl_of_baseline'])} of the GQA baseline's"
        sentences.append(sentence + ".")
    return sentences


def share_text(share: float) -> str:
    """A fraction of the baseline: 1/9.38 below a half, else 0.93 or 1.30; empty for NaN."""
    if not np.isfinite(share):
        return ""
    if share <= 0:
        return "0"
    return f"1/{number_text(1 / share)}" if share < 0.5 else f"{share:.2f}"


def number_text(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, trailing zeros kept, no exponent between 1e-4 and 1e6."""
    if not np.isfinite(value) or value == 0:
        return f"{value:g}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    if not -5 < exponent < 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


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
        "embedding_cosine": np.nan,
        "kv_bytes_per_token": parent.kv_bytes_per_token,
        "parameters": parent.parameters,
        "seconds": np.nan,
        "is_parent": True,
        "is_baseline": False,
    }


def _kl_text(kl: float) -> str:
    return number_text(kl)


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
