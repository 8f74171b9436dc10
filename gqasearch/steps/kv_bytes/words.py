"""What was decided and why, in words and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gqasearch.config import KV_BYTES
from gqasearch.steps.kv_bytes.byte_options import options_of
from gqasearch.steps.workspace import Workspace

HEADER = ("KV cache", "KV heads", "KV bytes/token", "of 16 bit", "KL, search text", "tokens", "")


def options_notes(work: Workspace) -> list[str]:
    """What will be compared, before the work."""
    options = options_of(work)
    if KV_BYTES in work.config.objectives:
        formats = dict.fromkeys(option.kv.name for option in options)
        return [f"{len(options)} caches will be compared: {', '.join(formats)}, each with several numbers of heads"]
    listed = ", ".join(f"{option.kv.name} with {option.total} KV heads" for option in options)
    return [f"{work.config.kv_bytes:g} of the bytes, {'one of' if len(options) > 1 else 'which is'}: {listed}"]


def decision_words(record: Mapping[str, Any]) -> str:
    """One sentence on ``format.json``."""
    best, *others = _ordered(record)
    found = (
        f"{record['kv_bytes']:g} of the parent's KV bytes in 16 bits became {best['kv_heads_total']} KV heads in the "
        f"format {best['format']} ({best['kv_share']:.3f}), with a KL of {best['kl']:.4g} on the search text, unrefined"
    )
    if not others:
        return found
    next_best = others[0]
    return f"{found}; next best {next_best['kv_heads_total']} in {next_best['format']}, {next_best['kl']:.4g}"


def decision_table(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """``HEADER`` and a row for every option of ``format.json``, the best first; of a front its points, the smallest
    first.
    """
    yield HEADER
    points = sorted((row for row in record["options"] if row.get("on_front")), key=lambda row: row["kv_share"])
    for row in points or _ordered(record):
        yield (
            row["format"],
            f"{row['kv_heads_total']}",
            f"{row['kv_bytes_per_token']:,.8g}",
            f"{row['kv_share']:.3f}",
            f"{row['kl']:.4g}",
            f"{row['tokens']:,}",
            "taken" if row["chosen"] else "",
        )


def _ordered(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(record["options"], key=lambda row: (not row["chosen"], -row["tokens"], row["kl"]))
