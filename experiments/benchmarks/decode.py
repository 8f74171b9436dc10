"""Decoding speed and KV memory of every layout: multi-head, uniform grouped-query, padded, ragged, joined heads, keys
and values apart.

python -m experiments.benchmarks.decode                                   # a small model on the CPU (minutes)
python -m experiments.benchmarks.decode --device cuda --shape llama-2-7b  # random weights at that shape, bfloat16
python -m experiments.benchmarks.decode --clock cpu                       # the same where others use the machine, too
python -m experiments.benchmarks.decode --kinds ragged apart              # these, beside the results of the others
python -m experiments.benchmarks.decode --quick                           # tiny, written nowhere
python -m experiments.benchmarks.decode --show                            # the committed results

All models have random weights and the same number of layers, and all but the first as large a cache: of as many KV
heads, or (joined) of half as many of twice the size, which queries of twice the size read. They share the
weights that have one shape: with weights of their own, models of the same matrices were seen to differ by a fifth,
whatever their attention. The cache is filled with random keys and values of the context's length; then tokens are
decoded one by one with the cache that ``generate`` uses. Models take turns, round after round; ratios are to the
uniform model of the same round. KV memory is that of the cache's tensors, counted after the last token. ``--clock cpu``
counts the processor's time of one thread, which is the program's own whatever else runs. On a GPU also the largest
batch that still fits.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from experiments.benchmarks.decode_models import (
    BASELINE,
    KINDS,
    SHAPES,
    Shape,
    cache_bytes,
    filled_cache,
    make_model,
    share_weights,
)
from experiments.benchmarks.search import show
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_file
from gqasearch.run.run_folder import environment

RESULTS = Path(__file__).parent / "results" / "decode"
CLOCKS: dict[str, Callable[[], float]] = {"elapsed": time.perf_counter, "cpu": time.process_time}
POINTS = {  # (contexts, batch sizes)
    "tiny": ((32,), (1, 2)),
    "small": ((512, 2048, 8192), (1, 8)),
    "llama-2-7b": ((2048, 8192, 32768), (1, 8, 64)),
}


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    cache: DynamicCache,
    batch: int,
    steps: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds by ``clock`` for so many more tokens of every sequence."""
    device = next(model.parameters()).device
    ids = torch.zeros((batch, 1), dtype=torch.long, device=device)
    _wait(device)
    started = clock()
    for _ in range(steps):
        logits: Tensor = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
        ids = logits[:, -1:].argmax(-1)
    _wait(device)
    return clock() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    shape_name: str, device: str, rounds: int, steps: int, clock: str, kinds: Sequence[str] = KINDS
) -> pd.DataFrame:
    """One row per context, batch and kind."""
    if clock == "cpu":
        torch.set_num_threads(1)
    shape, dtype = SHAPES[shape_name], torch.bfloat16 if device.startswith("cuda") else torch.float32
    models = {kind: make_model(kind, shape, device, dtype) for kind in KINDS if kind in {*kinds, BASELINE}}
    share_weights(models)
    contexts, batches = POINTS[shape_name]
    rows: list[dict[str, Any]] = []
    for context in contexts:
        for batch in batches:
            rows += _point(models, shape, context, batch, rounds, steps, CLOCKS[clock])
            print(f"context {context}, batch {batch}: measured", flush=True)
    table = pd.DataFrame(rows)
    table.insert(0, "shape", shape_name)
    table.insert(1, "device", torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu")
    table.insert(2, "clock", clock)
    return table


def _point(
    models: dict[str, PreTrainedModel],
    shape: Shape,
    context: int,
    batch: int,
    rounds: int,
    steps: int,
    clock: Callable[[], float],
) -> Iterator[dict[str, Any]]:
    """All kinds in turn; a kind whose cache does not fit has no speed."""
    seconds: dict[str, list[float]] = {kind: [] for kind in models}
    held = dict.fromkeys(models, 0)
    for round_ in range(rounds + 1):
        for kind, model in models.items():
            taken, held[kind] = _timed(model, shape, kind, batch, context, steps, clock)
            if round_:  # the first warms up
                seconds[kind].append(taken)
    base = np.array(seconds[BASELINE])
    for kind, times in seconds.items():
        speed = base / np.array(times) if np.isfinite(base).all() else np.full(rounds, np.nan)
        yield {
            "context": context,
            "batch": batch,
            "kind": kind,
            "tokens/s": batch * steps / float(np.median(times)),
            "speed / uniform": float(np.median(speed)),
            "lowest": float(speed.min()),
            "highest": float(speed.max()),
            "KV MB": held[kind] / 1e6,
            "rounds": rounds,
        }


def _timed(
    model: PreTrainedModel,
    shape: Shape,
    kind: str,
    batch: int,
    context: int,
    steps: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, int]:
    """Seconds, infinite where memory ran out, and the cache's bytes."""
    try:
        cache = filled_cache(model, shape, kind, batch, context)
        return decode(model, cache, batch, steps, clock), cache_bytes(cache)
    except torch.OutOfMemoryError:
        return math.inf, 0
    finally:
        torch.cuda.empty_cache()


def largest_batches(
    shape_name: str, device: str, contexts: tuple[int, ...], kinds: Sequence[str] = KINDS
) -> pd.DataFrame:
    """The largest power of two of sequences that a GPU decodes one token of, one model on it at a time."""
    rows = []
    for kind in kinds:
        model = make_model(kind, SHAPES[shape_name], device, torch.bfloat16)
        for context in contexts:
            fits = 0
            for batch in (2**power for power in range(12)):
                if math.isinf(_timed(model, SHAPES[shape_name], kind, batch, context, steps=1)[0]):
                    break
                fits = batch
            rows.append({"shape": shape_name, "context": context, "kind": kind, "largest batch": fits})
        del model
        torch.cuda.empty_cache()
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny version, to try it; writes nothing")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="elapsed")
    parser.add_argument("--steps", type=int, default=16, help="tokens per round")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="beside uniform [default: all]")
    arguments = parser.parse_args()
    quiet_libraries(0)
    with clear_errors():
        tables = committed() if arguments.show else measured(arguments)
        for file, rows in tables.items():
            show(f"decoding: {file.removesuffix('.csv')}", rows)
        if not (arguments.quick or arguments.show):
            write(tables, arguments.kinds)


def committed() -> dict[str, pd.DataFrame]:
    """File name -> rows; raises ``UserError`` where there are none."""
    found = {path.name: pd.read_csv(path) for path in sorted(RESULTS.glob("*.csv"))}
    if not found:
        raise UserError(f"{RESULTS} holds no results yet; leave --show out to measure")
    return found


def measured(arguments: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """File name -> rows, of what the command line asks for."""
    device = arguments.device
    if device.startswith("cuda") and arguments.clock == "cpu":
        raise UserError("--clock cpu does not see the work of a GPU; leave it out")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {device} cannot be used here: torch sees no GPU")
    shape = "tiny" if arguments.quick else arguments.shape
    name = "cuda" if device.startswith("cuda") else "cpu"
    found = {f"{name}.csv": measure(shape, device, arguments.rounds, arguments.steps, arguments.clock, arguments.kinds)}
    if name == "cuda":
        found[f"{name}-batches.csv"] = largest_batches(shape, device, POINTS[shape][0], arguments.kinds)
    return found


def beside_known(file: str, rows: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """The rows of ``kinds``, and those of all others that the committed file has, point by point."""
    path = RESULTS / file
    if set(kinds) == set(KINDS) or not path.is_file():
        return rows
    known = pd.read_csv(path)
    both = pd.concat([known[~known["kind"].isin(kinds)], rows[rows["kind"].isin(kinds)]])
    points = [name for name in ("shape", "context", "batch") if name in both]
    return both.sort_values(
        [*points, "kind"],
        key=lambda column: column.map(KINDS.index) if column.name == "kind" else column,
        ignore_index=True,
    )


def write(tables: dict[str, pd.DataFrame], kinds: Sequence[str]) -> None:
    """The rows of ``kinds``, and the versions and the command behind them, beside what is known of others."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for file, rows in tables.items():
        write_file(RESULTS / file, beside_known(file, rows, kinds).to_csv(index=False), overwrite=True)
    path = RESULTS / f"{next(iter(tables)).removesuffix('.csv')}.json"
    made = environment()
    if set(kinds) != set(KINDS) and path.is_file():
        made = {**read_json(path), ", ".join(kinds): made}
    write_file(path, json.dumps(made, indent=1) + "\n", overwrite=True)


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None
