"""What every refinement gives: KL on the search text, for methods are chosen by it and not by the held-out one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from experiments.quality.bench import Options, searched, timed, workspace
from experiments.quality.variants import variants
from gqasearch.errors import UserError
from gqasearch.evaluation import ParentLogProbs, model_runner


def measure(options: Options) -> pd.DataFrame:
    """One line per KV ratio and variant.

    All refine one grouping per ratio: the same number of groups in every layer, the best by merge error (evolution,
    seed 0), merged by ``optimal``. Fitted on the calibration text; seconds are those of the fit.
    """
    rows = pd.DataFrame([row for ratio in options.ratios for row in _at_ratio(options, ratio)])
    path = None if options.results is None else options.results / "refinements.csv"
    if not options.variants or path is None or not path.is_file():
        return rows
    known = pd.read_csv(path)
    same = known.set_index(["ratio", "variant"]).index.isin(rows.set_index(["ratio", "variant"]).index)
    return pd.concat([known[~same], rows], ignore_index=True)


def _at_ratio(options: Options, ratio: float) -> list[dict[str, Any]]:
    work = workspace(options, kv_ratio=ratio)
    grouping, size = searched(work), work.config.batch_blocks
    reference = ParentLogProbs.compute(model_runner(work.parent.model), work.blocks("search"), batch_blocks=size)
    calibration = work.blocks("calibration")
    work.converter.tied_layers(grouping)  # merged groups are kept: no variant pays for them
    rows = []
    known = variants(options.quick)
    for name in options.variants or known:
        if name not in known:
            raise UserError(f"--variants: no {name!r}; there are: {', '.join(known)}")
        convert = known[name]
        runner, seconds = timed(partial(convert, work.converter, grouping, calibration, size))
        kl = reference.mean_kl(runner)
        rows.append({"ratio": ratio, "variant": name, "kl": kl, "seconds": seconds})
        print(f"{ratio:g}  {name}: KL {kl:.4f}, {seconds:.1f} s", flush=True)
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """KL by variant and ratio, and the median of the seconds."""
    order = rows["variant"].drop_duplicates()
    table = rows.pivot_table(index="variant", columns="ratio", values="kl", sort=False).loc[order]
    table.columns = pd.Index([f"KL at {ratio:g}" for ratio in table.columns])
    table["seconds"] = rows.groupby("variant", sort=False)["seconds"].median()
    return table.reset_index()
