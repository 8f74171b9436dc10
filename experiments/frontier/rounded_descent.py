"""What the descent gains where it sees the rounded cache, before the basis is chosen, after it, or both.

python -m experiments.frontier.rounded_descent                     # the embedded model, half the heads, 2 bits
python -m experiments.frontier.rounded_descent --ratio 0.25 --format 4
python -m experiments.frontier.rounded_descent --ratio 1 --format 4    # nothing shared
python -m experiments.frontier.rounded_descent --show              # print the committed results

KL to the parent, the cache rounded, on the validation text (settings were chosen by it; it is no text that results are
reported on). One grouping, that of ``gqasearch search``. The basis takes half the text and half the steps of
``search --kv-bits``. What is there is not done again.

    descent                            as without --kv-bits
    descent, basis                     and then the basis
    descent, basis, rounded 120        and then 120 steps with the cache rounded, what --kv-bits does where heads share
    rounded descent, basis             the cache rounded in the 240 steps already
"""

from __future__ import annotations

import argparse
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pandas as pd

from experiments.benchmarks.search import show
from gqasearch.basis import Balance, balanced_layers
from gqasearch.config import build_config
from gqasearch.evaluation import ParentLayers, RoundedLayers, evaluate_quality
from gqasearch.files import write_file
from gqasearch.grouping_document import read_grouping
from gqasearch.models import LayerWeights
from gqasearch.refining import Descent
from gqasearch.rounding import KVFormat, parse_format
from gqasearch.run import run
from gqasearch.steps import Workspace
from gqasearch.steps.convert import document_converter

FILE = Path(__file__).parent / "results" / "rounded_descent.csv"
WAYS = ("descent", "descent, basis", "descent, basis, rounded 120", "rounded descent, basis")
BALANCE = Balance(tokens=4096, key_steps=100, value_steps=200)
KEY = ["ratio", "format", "way"]


class Case:
    """One grouping and one format, in ``folder``."""

    def __init__(self, ratio: float, kv: KVFormat, folder: Path) -> None:
        shared = {"kv_ratio": ratio, "baseline": False, "materialize": False, "evaluation_tokens": 8192}
        searched = run(build_config({**shared, "refine": "none"}), folder / f"search-{ratio:g}", report=False)
        self.work = Workspace(build_config({**shared, "refine": "descent", "evaluation_part": "validation"}))
        document = read_grouping(searched.grouping)
        self.grouping, self.converter = document.partitions, document_converter(self.work, document)
        self.kv, self.folder, self.ratio = kv, folder, ratio
        self.text = self.work.blocks("calibration")

    def layers(self, way: str) -> Mapping[int, LayerWeights]:
        """Converted one of the ``WAYS``."""
        sees = way.startswith("rounded")
        start = f"{self.ratio:g}-{self.kv.name if sees else 'plain'}"
        kv, converter = self.kv, self.converter
        found = converter.refine(
            self.grouping, self.text, Descent(), folder=self.folder / start, kv=kv if sees else None
        )
        if "basis" not in way:
            return found
        named = self.folder / f"{start}-{kv.name}-basis"
        descended, parent = found, self.work.parent

        def layer_of(index: int) -> LayerWeights:
            return converter.converted_layer(self.grouping, index, descended)

        balanced = balanced_layers(parent, self.grouping, layer_of, self.text, kv, named, BALANCE)
        if not way.endswith("rounded 120"):
            return balanced
        after = Descent(rounded_steps=120, whole=self.ratio == 1).after_basis()
        if after is None:
            raise TypeError("no steps")
        last = named.with_name(f"{named.name}-rounded")
        moved = after.refine(parent, self.grouping, balanced.__getitem__, self.text, folder=last, kv=kv)
        return ChainMap(cast(dict[int, LayerWeights], moved), cast(dict[int, LayerWeights], balanced))

    def kl(self, way: str) -> float:
        model = RoundedLayers(self.converter.runner(self.grouping, self.layers(way)), self.kv)
        parent = ParentLayers(self.work.parent)
        _, found = evaluate_quality(parent, {way: model}, self.work.blocks("evaluation"))
        return found[way].kl


def main() -> None:
    """Measure or show, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=0.5, help="as --kv-ratio of search")
    parser.add_argument("--format", default="2", help="as --kv-bits of search")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/frontier/rounded-descent"))
    parser.add_argument("--results", type=Path, default=FILE)
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments = parser.parse_args()
    case: Case | None = None
    for way in () if arguments.show else arguments.ways:
        rows = pd.read_csv(arguments.results, dtype={"format": str}) if arguments.results.is_file() else pd.DataFrame()
        if len(rows) and (rows[KEY] == [arguments.ratio, arguments.format, way]).all(axis=1).any():
            continue
        case = case or Case(arguments.ratio, parse_format(arguments.format), arguments.output_dir)
        row = {"ratio": arguments.ratio, "format": arguments.format, "way": way, "kl": case.kl(way)}
        rows = pd.concat([rows, pd.DataFrame([row])], ignore_index=True)
        write_file(arguments.results, rows.to_csv(index=False, float_format="%.5g"), overwrite=True)
    show("descent that sees the cache", pd.read_csv(arguments.results, dtype={"format": str}))


if __name__ == "__main__":
    main()
