"""Models with rounded KV caches: the rows that the terminal and the page show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gqasearch.reporting.numbers import number_text

PARENT, AS_STORED = "parent", "as stored"
HEADERS = ("model", "KV cache", "perplexity", "KL, nats per token", "KV bytes per token", "of 16 bit")


@dataclass(frozen=True)
class RoundedResult:
    """A model with a cache in one format, measured on the held-out text.

    ``cache``: the format, or ``AS_STORED``; ``kl``: to the parent whose cache is not rounded; ``kv_share``: its KV
    bytes over those of the parent in 16 bits.
    """

    model: str
    cache: str
    perplexity: float
    kl: float
    kv_bytes_per_token: float
    kv_share: float


def rounded_results(metrics: Mapping[str, Any], names: Mapping[str, str] | None = None) -> tuple[RoundedResult, ...]:
    """Of ``metrics.json``: every model as it is stored and then in every format; none where none was asked for.

    ``names``: of the models there, in words; as they are called there if not given.
    """
    if "rounded" not in metrics:
        return ()
    plain = {PARENT: metrics["parent"], **metrics["results"]}
    rows = [(model, AS_STORED, record) for model, record in plain.items()]
    rows += [(record["model"], record["format"], record) for record in metrics["rounded"]]
    figures = ("perplexity", "kl", "kv_bytes_per_token", "kv_share")
    return tuple(
        RoundedResult((names or {}).get(model, model), cache, **{name: record[name] for name in figures})
        for model, cache, record in sorted(rows, key=lambda row: list(plain).index(row[0]))
    )


def rounded_rows(results: Sequence[RoundedResult]) -> Iterator[tuple[str, ...]]:
    """A row of text for each, under ``HEADERS``."""
    for result in results:
        kl = "0" if result.kl == 0 else number_text(result.kl)
        bytes_ = f"{result.kv_bytes_per_token:,.8g}"
        yield (result.model, result.cache, number_text(result.perplexity, 4), kl, bytes_, f"{result.kv_share:.3f}")


def rounded_headlines(results: Sequence[RoundedResult]) -> list[str]:
    """One sentence per format: the converted model with the lowest KL when its cache is in it."""
    formats: dict[str, list[RoundedResult]] = {}
    for one in results:
        if one.model != PARENT and one.cache != AS_STORED:
            formats.setdefault(one.cache, []).append(one)
    bests = [min(found, key=lambda one: one.kl) for found in formats.values()]
    return [
        f"KV cache in {best.cache}, {best.kv_share:.3g} of the parent's bytes in 16 bits: "
        f"{number_text(best.kl)} nats per token from the parent, perplexity {number_text(best.perplexity, 4)} "
        f"({best.model})."
        for best in bests
    ]


def kl_by_share(results: Sequence[RoundedResult]) -> pd.DataFrame:
    """KL: a row per share of the bytes, falling; a column per model. Of two formats of one size the better one.

    Without the parent as it is stored, which has none.
    """
    shown = [one for one in results if (one.model, one.cache) != (PARENT, AS_STORED)]
    frame = pd.DataFrame([{"model": one.model, "share": one.kv_share, "kl": one.kl} for one in shown])
    finite: pd.DataFrame = frame[np.isfinite(frame["kl"])]
    best: pd.Series[float] = finite.groupby(["share", "model"], sort=False)["kl"].min()
    table: pd.DataFrame = best.unstack("model")
    return table[[name for name in dict.fromkeys(frame["model"]) if name in table]].sort_index(ascending=False)
