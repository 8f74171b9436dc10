"""The rows of one model as people read them: by bytes, the best marked, and what each part is worth."""

from __future__ import annotations

import pandas as pd

SAME = 1e-3  # of shares that scales and zero points alone tell apart
KEY = ["way", "format", "seed"]
KINDS = ("heads", "bits", "both", "low rank")
# Shares that kinds are compared at: each has its best row of at most this many bytes.
SHARES = (0.5, 0.375, 0.25, 0.19, 0.14, 0.11)


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per way and format: means over seeds, ``least`` and ``most`` of their losses, intervals of the first."""
    groups = rows.sort_values("seed", kind="stable").groupby(["way", "format"], sort=False)
    first, losses = groups.first(), groups["loss"]
    found = first.assign(loss=losses.mean(), least=losses.min(), most=losses.max(), seeds=groups.size())
    if "perplexity" in rows:
        found["perplexity"] = groups["perplexity"].mean()
    return found.reset_index()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """By bytes; ``best``: no other row has as few bytes and as little loss."""
    rows = over_seeds(rows).sort_values(["kv_share", "loss"], ascending=[False, True], kind="stable")
    pairs = list(zip(rows["kv_share"], rows["loss"], strict=True))
    best = [not any(s <= share * (1 + SAME) and other < loss for s, other in pairs) for share, loss in pairs]
    table = {
        "KV bytes of 16 bit": rows["kv_share"].map("{:.3f}".format),
        "way": rows["way"],
        "bits": rows["format"],
        loss_name(rows): rows["loss"].map("{:.4g}".format),
        "95%": [f"{low:.4g} to {high:.4g}" for low, high in zip(rows["loss_low"], rows["loss_high"], strict=True)],
        "seeds": [
            "1" if count == 1 else f"{count}: {least:.4g} to {most:.4g}"
            for count, least, most in zip(rows["seeds"], rows["least"], rows["most"], strict=True)
        ],
    }
    if "perplexity" in rows:
        table["perplexity"] = rows["perplexity"].map("{:.4g}".format)
    return pd.DataFrame({**table, "best": ["*" if is_best else "" for is_best in best]})


def loss_name(rows: pd.DataFrame) -> str:
    """What ``loss`` is: of an encoder, which has no perplexity, that of its embeddings."""
    return "KL" if "perplexity" in rows else "1 - cosine"


def by_kind(rows: pd.DataFrame, shares: tuple[float, ...] = SHARES) -> pd.DataFrame:
    """The least loss of every kind with at most so many bytes; ``both over one``: over the best of heads or bits."""
    rows = over_seeds(rows)
    table = []
    for share in shares:
        fits = rows[rows["kv_share"] <= share * (1 + SAME)]
        best = {kind: fits[fits["kind"] == kind].nsmallest(1, "loss") for kind in KINDS}
        alone = pd.concat([best["heads"], best["bits"]])["loss"].min()
        both = best["both"]["loss"].min()
        table.append(
            {"KV bytes at most": f"{share:g}"}
            | {kind: _told(found) for kind, found in best.items()}
            | {"both over one": "" if pd.isna(alone) or pd.isna(both) else f"{both / alone:.2f}"}
        )
    return pd.DataFrame(table)


def _told(found: pd.DataFrame) -> str:
    if found.empty:
        return ""
    row = found.iloc[0]
    bits = "" if row["format"] == "16" else f", {row['format']}"
    return f"{row['loss']:.4g} ({row['way']}{bits}: {row['kv_share']:.3g})"
