"""``gqasearch heal``: train a converted checkpoint for a while."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gqasearch.cli.figures_table import figures_table
from gqasearch.cli.messages import clear_errors, output_console, print_json, quiet_libraries
from gqasearch.cli.run_options import with_config_flags
from gqasearch.errors import UserError
from gqasearch.heal_config import HealConfig, build_heal_config


@partial(with_config_flags, settings=HealConfig)
def heal(
    model: Annotated[str, typer.Argument(help="A converted checkpoint, or the run folder that has one.")],
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder for the healed checkpoint and what is told of it. Needed to train.")
    ] = None,
    find_learning_rate: Annotated[
        bool, typer.Option(help="Try rising learning rates for a hundred steps, show what they do, train nothing.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; twice: libraries too.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and --json.")] = False,
    **flags: Any,
) -> None:
    """Recover what the conversion lost: a short fine-tune, taught by the parent.

    Of a run it takes the parent, the text and the block length from config.yaml, unless they are given. The same
    command on the same folder goes on where it was stopped. On several GPUs or machines, under torchrun or
    accelerate launch, with --device cuda.

    Example: gqasearch heal runs/NAME --steps 300 --output-dir runs/healed

    On two GPUs: torchrun --nproc-per-node 2 -m gqasearch heal NAME --parent ORG/NAME --device cuda --output-dir healed
    """
    with clear_errors(resumable=True):
        if find_learning_rate == (output_dir is not None):
            raise UserError("give one of --output-dir, to train, and --find-learning-rate, which writes nothing")
        quiet_libraries(verbose)
        from gqasearch.run.origin import healing_settings

        given = {name: value for name, value in flags.items() if value is not None}
        build_heal_config({"model": model, **given})  # for its errors, before anything is looked for
        settings = healing_settings(model, given)
        if find_learning_rate and "evaluation_tokens" not in given:
            settings.pop("evaluation_tokens", None)  # the run's, of no use here
        config = build_heal_config(settings)
        if output_dir is None:
            _find_learning_rate(config, json_, quiet)
            return
        _heal(config, output_dir, json_, quiet)


def _heal(config: HealConfig, output_dir: Path, json_: bool, quiet: bool) -> None:
    from rich.console import Console

    from gqasearch.files import read_json
    from gqasearch.reporting import SearchProgress
    from gqasearch.run.heal import heal as run_heal
    from gqasearch.run.heal.process_group import Ranks

    leads = Ranks.of_environment().leads
    with SearchProgress(Console(stderr=True), quiet=quiet or json_ or not leads) as progress:
        folder = run_heal(config, output_dir, progress)
    if not leads:
        return
    metrics = read_json(folder.metrics)
    if json_:
        for record in (metrics["parent"], *metrics["results"].values()):
            record.pop("kl_blocks")
        print_json({"output_dir": str(folder.path), **metrics})
    elif not quiet:
        _show(folder.path, metrics)


def _show(path: Path, metrics: dict[str, Any]) -> None:
    results, console = metrics["results"], output_console()
    console.print(figures_table({"parent": metrics["parent"], "start": results["start"], "healed": results["healed"]}))
    low, high = results["healed"]["kl_interval"]
    console.print(f"KL: 95% interval {low:.4g} to {high:.4g}", highlight=False)
    early = ", stopped early" if metrics["stopped_early"] else ""
    console.print(f"trained on {metrics['tokens']:,} tokens in {metrics['steps']:,} steps{early}", highlight=False)
    for what in ("model", "report.html"):
        if (path / what).exists():
            console.print(f"{what:>11}  {path / what}", markup=False)


def _find_learning_rate(config: HealConfig, json_: bool, quiet: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from gqasearch.reporting import SearchProgress
    from gqasearch.run.heal.rate_trials import try_learning_rates

    with SearchProgress(Console(stderr=True), quiet=quiet or json_) as progress:
        found = try_learning_rates(config, progress)
    if json_:
        print_json(
            {"suggested": found.suggested, "tried": [{"learning_rate": r, "left": left} for r, left in found.tried]}
        )
        return
    table = Table("learning rate", "left of the loss")
    for rate, left in found.tried[:: max(1, len(found.tried) // 20)]:
        table.add_row(f"{rate:.2g}", f"{left:.4g}")
    console = output_console()
    console.print(table)
    console.print(f"suggested: --learning-rate {found.suggested:.1g}", highlight=False)
