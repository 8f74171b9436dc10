"""Healing runs of realistic shape, made up: a KL that falls by a power of the tokens."""

from __future__ import annotations

from gqasearch.reporting import Measurement, TextUse
from gqasearch.reporting.healing import HealingData, HealingPoint, HealingRun, HeldOut

PARENT = HeldOut(14.37, 0.0, (0.0, 0.0), 9216)
# label, KL at the start, KL after 65,536 tokens
STARTS = (
    ("neighbour + mean", 2.77, 0.9),
    ("weight-sharing-error (qcqa-ac) + mean", 2.42, 0.8),
    ("perplexity (asymgqa) + mean", 2.5, 0.84),
    ("merge-error + optimal + descent", 0.154, 0.11),
)
TOKENS = (0, *(65_536 * count for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 62)))


def held_out(kl: float) -> HeldOut:
    return HeldOut(14.37 * 2.718 ** (kl * 0.9), kl, (kl * 0.97, kl * 1.03), 2304)


def healing_run(label: str, start: float, first: float, seed: int = 0, tokens: tuple[int, ...] = TOKENS) -> HealingRun:
    kls = [start, *(first * (1 + 0.03 * seed) * (count / 65_536) ** -0.4 for count in tokens[1:])]
    history = tuple(
        HealingPoint(count // 2048, count, kl, 15.0 * 2.718 ** (kl * 0.9))
        for count, kl in zip(tokens, kls, strict=True)
    )
    return HealingRun(label, seed, history, held_out(start), held_out(kls[-1]), tokens[-1], history[-1])


def healing_data(seeds: int = 3, starts: tuple[tuple[str, float, float], ...] = STARTS) -> HealingData:
    return HealingData(
        title="embedded: healing at a quarter of the KV heads",
        parent=PARENT,
        runs=tuple(healing_run(*start, seed) for start in starts for seed in range(seeds)),
        measurement=Measurement("Every token but a block's first is a target.", 256, 65_280),
        texts=(
            TextUse("training", "standard library: abc.py", 4_063_232, "the healed weights"),
            TextUse("validation", "standard library: ast.py", 16_384, "the curves of this page"),
            TextUse("held-out", "standard library: csv.py", 65_536, "the figures of this page"),
        ),
        configuration="model: runs/a\nsteps: 2000\n",
        environment={"gqasearch": "0.1.0", "python": "3.11.2"},
        validation_perplexity=15.0,
        notes=("The learning rate was not tuned for every start.",),
    )
