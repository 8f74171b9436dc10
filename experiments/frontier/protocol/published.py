"""What others report under the same protocol. Published figures: nothing here was measured by this project."""

from __future__ import annotations

from dataclasses import dataclass

TASKS = ("openbookqa", "hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande")
# The metric of each whose mean the papers tell; the parent's mean says whether it is the same one here.
METRICS = {"openbookqa": "acc_norm", "hellaswag": "acc_norm", "arc_challenge": "acc_norm"}
METRIC = "acc"  # of all others


@dataclass(frozen=True)
class Published:
    """One row of a paper: perplexities at 2,048 tokens, and the mean of the six tasks in percent."""

    share: float
    method: str
    wikitext_2: float
    c4: float
    tasks: float


@dataclass(frozen=True)
class Protocol:
    """A parent by its hub id, what its perplexity must be, and who reported what.

    ``tolerance``: papers round to two digits, and arithmetic in 16 bits moves the last.
    """

    model: str
    perplexity: float
    rows: tuple[Published, ...]
    tolerance: float = 0.02


PALU, RECALKV = "Palu (arXiv 2407.21118), as in arXiv 2505.24357", "ReCalKV (arXiv 2505.24357)"
PROTOCOLS = {
    "llama-2-7b": Protocol(
        "meta-llama/Llama-2-7b-hf",
        5.47,
        (
            Published(1.0, "parent", 5.47, 7.26, 64.99),
            Published(0.5, PALU, 6.02, 8.72, 62.64),
            Published(0.5, RECALKV, 5.83, 8.14, 63.64),
            Published(0.3, PALU, 8.62, 15.01, 52.14),
            Published(0.3, RECALKV, 6.75, 10.05, 59.90),
            Published(0.2, "low-rank base of arXiv 2505.24357", 9.34, 14.58, 49.01),
            Published(0.2, RECALKV, 8.48, 13.29, 54.55),
        ),
    )
}
