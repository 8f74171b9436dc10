"""What keys that are rebuilt at every step cost: one token decoded by the attention of one layer, CPU seconds.

python -m experiments.frontier.rebuild                     # the shape of Llama-2-7B, half of its cache kept

By full heads, by half of the heads (two queries each), and by latents in Palu's form (arXiv 2407.21118): groups of 4
heads whose keys are rebuilt from their latents and turned by RoPE before they are read, values read as latents. Random
numbers in float32, one thread, projections left out; medians. Palu's own kernel does the same arithmetic, in the GPU's
fast memory: what it saves is the traffic of keys, not their products.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from experiments.benchmarks.search import show

HEADS, SIZE, TOGETHER = 32, 128, 4


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Queries (G, n, d) of G heads over their keys (G, L, d) and values (G, L, r) -> (G, n, r)."""
    read: Tensor = (query @ keys.mT * SIZE**-0.5).softmax(-1) @ values
    return read


def turned(keys: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """RoPE on keys (H, L, d)."""
    first, second = keys.chunk(2, -1)
    return keys * cosines + torch.cat([-second, first], -1) * sines


def by_heads(kept: int, context: int) -> Callable[[], Tensor]:
    """With so many KV heads cached, keys after RoPE."""
    query = torch.randn(kept, HEADS // kept, SIZE)
    keys, values = torch.randn(kept, context, SIZE), torch.randn(kept, context, SIZE)
    return lambda: attend(query, keys, values)


def by_latents(share: float, context: int) -> Callable[[], Tensor]:
    """With latents of ``share`` of the numbers cached."""
    groups, rank = HEADS // TOGETHER, int(share * TOGETHER * SIZE)
    query = torch.randn(groups, TOGETHER, 1, SIZE)
    keys, values = torch.randn(groups, context, rank), torch.randn(groups, context, rank)
    basis = torch.randn(groups, rank, TOGETHER * SIZE)
    angles = torch.randn(context, SIZE)
    cosines, sines = angles.cos(), angles.sin()

    def decode() -> Tensor:
        rebuilt = (keys @ basis).unflatten(-1, (TOGETHER, SIZE)).transpose(1, 2)
        return attend(query, turned(rebuilt, cosines, sines), values[:, None])

    return decode


def multiply_adds(share: float | None) -> float:
    """Of one cached token in one step: scores, weighted values and, with latents, rebuilt keys."""
    if share is None:
        return 2.0 * HEADS * SIZE
    rank = share * TOGETHER * SIZE
    return HEADS * SIZE * (1 + rank) + HEADS * rank


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for context in arguments.contexts:
        ways = {
            "all heads": (by_heads(HEADS, context), multiply_adds(None)),
            "half the heads": (by_heads(HEADS // 2, context), multiply_adds(None)),
            "latents, half": (by_latents(0.5, context), multiply_adds(0.5)),
            "latents, a quarter": (by_latents(0.25, context), multiply_adds(0.25)),
        }
        for name, (decode, cost) in ways.items():
            seconds = [timed(decode) for _ in range(arguments.rounds)]
            rows.append({"context": context, "cache": name, "multiply-adds per cached token": f"{cost:,.0f}"})
            rows[-1] |= {"CPU ms per step": f"{1000 * statistics.median(seconds):.3g}"}
    show("one token, one layer", pd.DataFrame(rows))


def timed(decode: Callable[[], Tensor]) -> float:
    """CPU seconds of one step."""
    start = time.process_time()
    decode()
    return time.process_time() - start


if __name__ == "__main__":
    main()
