"""What the slow rivals reach with as many evaluations as evolution: the runs that they were given to the end."""

from __future__ import annotations

import pandas as pd

HEADS, RIVALS = 32, ("deap-stock", "pymoo NSGA-II")


def equal_evaluations(rows: pd.DataFrame) -> pd.DataFrame:
    """Median normalised gap by evaluations; evolution on the problems and seeds of those runs."""
    rows = rows[rows["heads"] == HEADS]
    marks = [name for name in rows.columns if name.startswith("gap_e") and int(name.removeprefix("gap_e")) >= 10_000]
    rivals = {name: rows[(rows["method"] == name) & rows["to_evaluations"]] for name in RIVALS}
    same = rivals[RIVALS[0]][["kind", "sizes", "seed"]]
    parts = {"evolution": rows[rows["method"] == "evolution"].merge(same), **rivals}
    return pd.DataFrame(
        {
            "method": name,
            "runs": len(part),
            **{mark.removeprefix("gap_e"): float(part[mark].median()) for mark in marks},
        }
        for name, part in parts.items()
    )
