"""Report data of realistic size, made up from a seed: figures of the design's prototype, random groups."""

from __future__ import annotations

import numpy as np

from gqasearch.grouping import LayerGrouping
from gqasearch.reporting import (
    History,
    HistoryPoint,
    LayerPicture,
    Measurement,
    MethodResult,
    ParentResult,
    ReportData,
    Similarity,
    TextUse,
)

# label, method, fitness, merge, KL at half and at a quarter of the heads
METHODS = (
    ("neighbour (GQA)", "neighbour", None, "mean", 1.97, 4.20),
    ("weight-sharing error (QCQA)", "evolution", "weight-sharing", "mean", 1.84, 3.65),
    ("activation cosine (AsymGQA)", "evolution", "activation-cosine", "mean", 1.90, 3.80),
    ("merge error (ours)", "evolution", "merge-error", "optimal", 0.21, 0.63),
)


def random_grouping(rng: np.random.Generator, heads: int, groups: int) -> LayerGrouping:
    labels = np.concatenate([np.arange(groups), rng.integers(groups, size=heads - groups)])
    return LayerGrouping.from_labels(rng.permutation(labels).tolist())


def layer_pictures(rng: np.random.Generator, depth: int, heads: int, groups: int) -> tuple[LayerPicture, ...]:
    return tuple(
        LayerPicture(random_grouping(rng, heads, groups), error=float(rng.gamma(2, 0.3)), proven_optimal=layer % 2 == 0)
        for layer in range(depth)
    )


def history(rng: np.random.Generator, label: str, scale: float) -> History:
    best = scale * (1 + np.sort(rng.exponential(1, size=30))[::-1])
    return History(label, tuple(HistoryPoint(i, 40 * (i + 1), float(v), 0.1 * i) for i, v in enumerate(best)))


def similarity(rng: np.random.Generator, depth: int, heads: int) -> Similarity:
    key, value = (np.stack([_cosines(rng, heads, mix) for _ in range(depth)]) for mix in (0.4, 0.15))
    return Similarity(
        key, value, "Cosine of pre-RoPE keys and of values at the same token, averaged over calibration tokens"
    )


def report_data(depth: int = 6, heads: int = 12, seed: int = 0, ratios: tuple[float, ...] = (0.5, 0.25)) -> ReportData:
    rng = np.random.default_rng(seed)
    results = []
    for number, ratio in enumerate(ratios):
        groups = round(ratio * heads)
        for label, method, fitness, merge, *kl in METHODS:
            searched = fitness is not None
            results.append(
                MethodResult(
                    label=label,
                    method=method,
                    merge=merge,
                    fitness=fitness,
                    kv_ratio=ratio,
                    kv_heads_total=groups * depth,
                    perplexity=float(12.74 * np.exp(0.9 * kl[number])),
                    kl=kl[number],
                    kv_bytes_per_token=2 * groups * depth * 16 * 4,
                    parameters=3_050_000,
                    seconds=float(rng.uniform(3, 30)) if searched else 0.4,
                    layers=layer_pictures(rng, depth, heads, groups)
                    if searched
                    else (LayerPicture(LayerGrouping.neighbours(heads, groups)),) * depth,
                    history=tuple(history(rng, f"layer {i}", 10.0 ** -(i % 3)) for i in range(depth))
                    if searched
                    else (),
                )
            )
    return ReportData(
        title="embedded: half and a quarter of the KV cache",
        model={"id": "embedded", "architecture": "LlamaForCausalLM", "layers": str(depth), "KV heads": str(heads)},
        parent=ParentResult(12.74, depth * heads, 2 * depth * heads * 16 * 4, 3_050_000),
        results=tuple(results),
        measurement=Measurement(
            "Blocks of the held-out text, each token after a block's first is a target.", 256, 65_280
        ),
        texts=(
            TextUse("calibration", "standard library: argparse, ast, asyncio", 32_768, "statistics of the merges"),
            TextUse("search", "standard library: json, logging", 8_192, "fitness functions that run the model"),
            TextUse("held-out", "standard library: zipfile, tarfile", 65_536, "perplexity and KL in this report"),
        ),
        configuration="model: embedded\nbudget:\n  kv_ratio: 0.5\nfitness:\n  name: merge-error\nseed: 0\n",
        environment={"gqasearch": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "processor": "2 cores"},
        similarity=similarity(rng, depth, heads),
        warnings=("The held-out text is of the same kind as the training text.",),
    )


def _cosines(rng: np.random.Generator, heads: int, mix: float) -> np.ndarray:
    vectors = rng.normal(size=(heads, 24)) + mix * rng.normal(size=24)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T
