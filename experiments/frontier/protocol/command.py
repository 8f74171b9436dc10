r"""The evaluation that papers on smaller KV caches share, for people with a GPU and a hub.

python -m experiments.frontier --protocol llama-2-7b --device cuda     # meta-llama/Llama-2-7b-hf of the hub
python -m experiments.frontier --protocol llama-2-7b --model PATH --device cuda       # the same model in a folder
python -m experiments.frontier --protocol llama-2-7b --model embedded --text FILE.txt --any-parent \
    --samples 8 --length 256 --tasks gqasearch-identifiers             # a trial of every step, without either

The parent first: its WikiText-2 perplexity at 2,048 tokens must be the published one (--expected-perplexity for another
model, --any-parent for none), or nothing is run. Then rows at 50, 30, 25 and 20% of the KV cache, each calibrated on
128 x 2,048 tokens of WikiText-2's and of C4's training text: perplexity of both test texts, in windows of 2,048 tokens
side by side, mean over all, and the mean of six zero-shot tasks through lm-eval (pip install 'gqasearch[eval]').
Published rows stand beside them, as published. A run and a row that are there are not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console

from experiments.benchmarks.search import show
from experiments.frontier.protocol.plan import SHARES, Row, plan
from experiments.frontier.protocol.published import PROTOCOLS, TASKS, Protocol
from experiments.frontier.protocol.steps import Bench, perplexities, task_mean
from experiments.frontier.protocol.texts import hub_texts, local_text
from experiments.frontier.record import require_same
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.config import apply_settings, build_config
from gqasearch.errors import UserError
from gqasearch.files import write_file
from gqasearch.reporting import SearchProgress
from gqasearch.run import run
from gqasearch.steps import Workspace
from gqasearch.steps.tasks import check_known_tasks

FILE = "rows.csv"
KEY = ["calibration", "share", "way"]
NOT_OURS = "published"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=list(PROTOCOLS), required=True)
    parser.add_argument("--model", help="as --model of search [default: the protocol's, of the hub]")
    parser.add_argument("--text", type=Path, help="FILE.txt or FILE.jsonl in place of WikiText-2 and C4")
    parser.add_argument(
        "--expected-perplexity", type=float, help="of the parent on the first text [default: published]"
    )
    parser.add_argument("--any-parent", action="store_true", help="do not hold the parent against a perplexity")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a window, also of perplexity")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of the KV cache that are kept")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), help="of lm-eval, or gqasearch-identifiers; or none")
    parser.add_argument("--limit", type=int, help="items of every task, the first ones [default: all]")
    parser.add_argument("--device", default="cpu", help="as of search")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--set", dest="settings", nargs="+", default=[], help="FIELD=VALUE of all runs, as of search")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/protocol"), help="folder of runs, texts and rows")
    return parser.parse_args()


def main() -> None:
    """Measure what is not there yet, and print it beside what was published."""
    arguments = parse()
    quiet_libraries(0)
    with clear_errors(resumable=True):
        protocol = PROTOCOLS[arguments.protocol]
        rows = measure(protocol, arguments)
        model = arguments.model or protocol.model
        show(
            f"{model}: perplexities, mean of the tasks in percent; published: {arguments.protocol}",
            table(rows, protocol),
        )


def measure(protocol: Protocol, arguments: argparse.Namespace) -> pd.DataFrame:
    """The parent, and every row after it; the file is written whenever one is done."""
    check_known_tasks(arguments.tasks)
    texts = hub_texts() if arguments.text is None else local_text(arguments.text)
    shared = _settings(protocol, arguments)
    path = arguments.output_dir / FILE
    rows = pd.read_csv(path, dtype={"bits": str}) if path.is_file() else pd.DataFrame(columns=KEY)
    with SearchProgress(Console(stderr=True)) as progress:
        bench = Bench(Workspace(build_config(shared), progress), tuple(texts.values()), arguments.length)
        rows = _after_parent(protocol, arguments, bench, rows, path)
        for name, text in texts.items():
            calibration = {"calibration_text": str(text.file(arguments.output_dir / "texts"))}
            for row in plan(bench.work.source.geometry, tuple(arguments.shares)):
                done = rows[(rows["calibration"] == name) & (rows["share"] == row.share) & (rows["way"] == row.way)]
                if not done.empty:
                    continue
                config = build_config({**shared, **calibration, **row.settings})
                model = run(config, arguments.output_dir / name / row.folder, progress, report=False).model
                rows = _with(rows, {**_names(name, row), **_measured(bench, model, row, arguments)}, path)
    return rows


def _after_parent(
    protocol: Protocol, arguments: argparse.Namespace, bench: Bench, rows: pd.DataFrame, path: Path
) -> pd.DataFrame:
    """``rows`` with the parent first; raises ``UserError`` for another parent, or other settings than theirs."""
    found = {}
    if rows.empty:
        found = perplexities(bench, None, None)
        _require_parent(protocol, arguments, next(iter(found.items())))
    asked = {"tasks": arguments.tasks, "limit": arguments.limit, "texts": [text.name for text in bench.texts]}
    require_same(path.parent, {**_settings(protocol, arguments), **asked})
    if not found:
        return rows
    found |= task_mean(bench, None, None, arguments.tasks, arguments.limit)
    return _with(rows, {"calibration": "", "share": 1.0, "way": "parent", "bits": "16", **found}, path)


def _settings(protocol: Protocol, arguments: argparse.Namespace) -> dict[str, Any]:
    length = arguments.length
    own = {"model": arguments.model or protocol.model, "block_length": length, "batch_blocks": 1, "baseline": False}
    own |= {"calibration_tokens": arguments.samples * length, "search_tokens": 8 * length}
    own |= {"evaluation_tokens": length, "device": arguments.device, "dtype": arguments.dtype}  # its own: not used
    return apply_settings(own, arguments.settings)


def _require_parent(protocol: Protocol, arguments: argparse.Namespace, found: tuple[str, float]) -> None:
    """Raise ``UserError`` unless the parent's perplexity is the one that was published."""
    wanted = protocol.perplexity if arguments.expected_perplexity is None else arguments.expected_perplexity
    text, perplexity = found[0].removeprefix("perplexity "), found[1]
    if arguments.any_parent:
        return
    if arguments.text is not None and arguments.expected_perplexity is None:
        raise UserError(
            f"--text {arguments.text}: {wanted} is WikiText-2's; give --expected-perplexity or --any-parent"
        )
    if abs(perplexity - wanted) > protocol.tolerance:
        raise UserError(
            f"the parent's perplexity on {text} is {perplexity:.3f}, not {wanted} within {protocol.tolerance}: it is "
            "another model, tokenizer or text, and its rows could not be compared. --any-parent goes on"
        )


def _names(calibration: str, row: Row) -> dict[str, Any]:
    return {"calibration": calibration, "share": row.share, "way": row.way, "bits": row.kv_bits or "16"}


def _measured(bench: Bench, model: Path, row: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    found = perplexities(bench, model, row.kv_bits)
    return found | task_mean(bench, model, row.kv_bits, arguments.tasks, arguments.limit)


def _with(rows: pd.DataFrame, row: dict[str, Any], path: Path) -> pd.DataFrame:
    found = pd.concat([rows, pd.DataFrame([row])], ignore_index=True) if len(rows) else pd.DataFrame([row])
    write_file(path, found.to_csv(index=False, float_format="%.6g"), overwrite=True)
    return found


def table(rows: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Ours and what was published, by share; ``source`` tells which."""
    texts = [name for name in rows.columns if name.startswith("perplexity ")]
    ours = [
        {
            "KV kept": row["share"],
            "way": row["way"],
            "bits": row["bits"],
            "calibrated on": row["calibration"] or "",
            **{text.removeprefix("perplexity "): f"{row[text]:.3f}" for text in texts},
            "tasks": "" if pd.isna(row.get("tasks")) else f"{row['tasks']:.2f}",
            "source": "measured",
        }
        for row in rows.fillna({"calibration": ""}).to_dict("records")
    ]
    theirs = [
        {"KV kept": one.share, "way": one.method, "wikitext-2": f"{one.wikitext_2:.2f}", "c4": f"{one.c4:.2f}"}
        | {"tasks": f"{one.tasks:.2f}", "source": NOT_OURS}
        for one in protocol.rows
    ]
    found = pd.DataFrame([*ours, *theirs]).fillna("")
    found = found.sort_values("KV kept", ascending=False, kind="stable")
    return found.assign(**{"KV kept": found["KV kept"].map("{:.0%}".format)})


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None
