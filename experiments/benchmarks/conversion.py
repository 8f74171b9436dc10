"""Converting a checkpoint by its weights: peak memory, time beside copying the files, and the same bits as in memory.

python -m experiments.benchmarks.conversion            # 1 B parameters in bfloat16, four shards (minutes)
python -m experiments.benchmarks.conversion --quick    # a small one, written nowhere
python -m experiments.benchmarks.conversion --show     # the committed results

It takes 5 GB in the folder for temporary files and 8 GB of memory. Memory is measured in a process of its own
(``memory.py``), with the source's mapped pages. Time is in turns: the files copied and every layer merged in memory,
whole, as a search does it; then the conversion; then the conversion with the check of the grouping's fingerprint, as
``gqasearch materialize`` does it, which hashes all weights. A slow disk makes the ratios better, so the committed
results come from a TMPDIR that lies in memory. The in-memory conversion that the bits are compared with merges
the model that transformers loads, in float32.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.benchmarks.checkpoints import llama_config, make_checkpoint, random_grouping
from experiments.benchmarks.memory import measured_apart, workspace
from experiments.benchmarks.search import show
from gqasearch.checkpoints import plan_checkpoint, write_checkpoint
from gqasearch.cli.messages import quiet_libraries
from gqasearch.files import write_file
from gqasearch.grouping_document import GroupingDocument, write_grouping
from gqasearch.merging import Merge, make_merge
from gqasearch.models import ModelSource, Parent, load_model
from gqasearch.pairwise import FloatArray
from gqasearch.run.run_folder import environment
from gqasearch.steps import materialize
from gqasearch.steps.convert import converted_layers

RESULTS = Path(__file__).parent / "results" / "conversion"
MERGES, ROUNDS, SHARDS = ("mean", "medoid"), 5, 4
BILLION = {"layers": 18, "hidden": 2048, "heads": 32, "vocab": 32000}
SMALL = {"layers": 4, "hidden": 256, "heads": 8, "vocab": 1000}
GROUPS = {32: 8, 8: 2}


def measure(quick: bool) -> pd.DataFrame:
    """One row per merge."""
    size = SMALL if quick else BILLION
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoint(llama_config(**size), folder / "source", SHARDS)
        source = ModelSource(folder / "source", "")
        return pd.DataFrame([_row(source, folder, merge, 2 if quick else ROUNDS) for merge in MERGES])


def _row(source: ModelSource, folder: Path, merge: str, rounds: int) -> dict[str, Any]:
    document, out = random_grouping(source, merge, GROUPS[source.geometry.num_kv_heads]), folder / "out"
    write_grouping(folder / "grouping.json", document, overwrite=True)
    memory = measured_apart(source.directory, folder / "grouping.json", out)
    compared = compare(source, document, out)
    work = workspace(source.directory)
    rule = make_merge(merge)

    def copy_and_merge() -> None:
        shutil.copytree(source.directory, out)
        merge_in_memory(source, rule, document)

    def convert() -> None:
        write_checkpoint(source.directory, out, document, converted_layers(work, document))

    def convert_checked() -> None:
        materialize(workspace(source.directory), document, out)

    times = in_turns((copy_and_merge, convert, convert_checked), out, rounds)
    plain, checked = times[:, 1] / times[:, 0], times[:, 2] / times[:, 0]
    typical = np.median(times, axis=0)
    stored = source.tensors.headers.values()
    return {
        "merge": merge,
        "parameters": sum(header.nbytes for header in stored) // 2,
        "shards": len(stored),
        "largest tensor, MB": max(t.nbytes for header in stored for t in header.tensors.values()) / 1e6,
        "resident before, MB": memory["before"] / 1e6,
        "added at the peak, MB": memory["added"] / 1e6,
        "equal tensors": compared,
        "rounds": rounds,
        "copy and merge, s": typical[0],
        "conversion, s": typical[1],
        "with fingerprint, s": typical[2],
        "ratio": np.median(plain),
        "lowest": plain.min(),
        "highest": plain.max(),
        "ratio with fingerprint": np.median(checked),
        "its lowest": checked.min(),
        "its highest": checked.max(),
    }


def in_turns(steps: Sequence[Callable[[], None]], out: Path, rounds: int) -> FloatArray:
    """Seconds of every step in every round, (rounds, steps); each makes ``out``, which is removed before."""
    seconds = np.zeros((rounds, len(steps)))
    for place in np.ndindex(seconds.shape):
        shutil.rmtree(out)
        started = time.perf_counter()
        steps[place[1]]()
        seconds[place] = time.perf_counter() - started
    shutil.rmtree(out)
    return seconds


def merge_in_memory(source: ModelSource, merge: Merge, document: GroupingDocument) -> None:
    """Every layer merged in float32 and let go."""
    for index, layer in enumerate(document.grouping):
        weights = source.family.read_layer(source.tensors.read, index, source.config)
        merge.for_layer(weights.to(torch.float32)).merge(layer)


def compare(source: ModelSource, document: GroupingDocument, out: Path) -> int:
    """How many tensors in ``out`` are those of a conversion in memory; raises ``ValueError`` for one that is not."""
    model = load_model(source.directory, torch.float32, "cpu")
    parent = Parent(document.model.id, model, source.config, source.family, directory=source.directory)
    layout = plan_checkpoint(source.family, source.config, document.grouping)
    merge = make_merge("" if document.merge is None else document.merge.name)
    expected: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(document.grouping):
        merged = layout.lay_out(merge.for_layer(parent.layer(index)).merge(layer), index)
        expected |= source.family.write_layer(merged, index)
    written = ModelSource(out, "").tensors
    if written.shard_of != source.tensors.shard_of:
        raise ValueError("tensors lie in other shards")
    for name in written.shard_of:
        stored = source.tensors.read(name)
        wanted = expected[name].to(stored.dtype) if name in expected else stored
        if not torch.equal(written.read(name).view(torch.int16), wanted.view(torch.int16)):
            raise ValueError(f"{name} differs")
    return len(written.shard_of)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """What the README tells."""
    shown = (
        "merge",
        "added at the peak, MB",
        "equal tensors",
        "ratio",
        "highest",
        "ratio with fingerprint",
        "its highest",
    )
    return rows[list(shown)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small version, to try it; writes nothing")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments = parser.parse_args()
    quiet_libraries(0)
    rows = pd.read_csv(RESULTS / "conversion.csv") if arguments.show else measure(arguments.quick)
    show("conversion", summary(rows))
    if not (arguments.quick or arguments.show):
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_file(RESULTS / "conversion.csv", rows.to_csv(index=False), overwrite=True)
        write_file(RESULTS / "environment.json", json.dumps(environment(), indent=1) + "\n", overwrite=True)


if __name__ == "__main__":
    main()
