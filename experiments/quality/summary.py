"""The table as people read it: medians over seeds, and shares of the two baselines."""

from __future__ import annotations

import pandas as pd

PLAIN = "neighbour, mean"
ALIGNED = ("neighbour, aligned", "searched, aligned", "split by errors, aligned", "whole model, aligned")


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """One model after the other; a column names it where there are several."""
    models = {str(model): _of_one_model(part) for model, part in rows.groupby("model", sort=False)}
    if len(models) < 2:
        return next(iter(models.values()), pd.DataFrame())
    for model, table in models.items():
        table.insert(0, "model", model)
    return pd.concat(models.values(), ignore_index=True)


def _of_one_model(rows: pd.DataFrame) -> pd.DataFrame:
    """Per KV ratio and row: median and range of the KL, how many times below neighbour + mean, and below the best
    aligned and norm-restored one (its own median over seeds).
    """
    found = []
    for ratio, part in rows.groupby("ratio", sort=False):
        kl = part.groupby("row", sort=False)["kl"]
        medians = kl.median()
        aligned = medians[[row for row in ALIGNED if row in medians]].min()
        for row, median in medians.items():
            mine = part[part["row"] == row]
            found.append(
                {
                    "KV ratio": ratio,
                    "conversion": row,
                    "KL": median,
                    "range": "" if len(mine) == 1 else f"{mine['kl'].min():.4f} to {mine['kl'].max():.4f}",
                    "perplexity": float(mine["perplexity"].median()),
                    "of mean's": _share(median, medians.get(PLAIN)),
                    "of aligned's": _share(median, aligned),
                    "seeds": len(mine),
                    "seconds": float((mine["search_seconds"] + mine["convert_seconds"]).median()),
                }
            )
    return pd.DataFrame(found)


def _share(value: float, base: float | None) -> str:
    return "" if base is None or pd.isna(base) else f"1/{base / value:.1f}"
