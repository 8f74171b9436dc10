"""What a run would do and take, in words, without doing it: one layer is read to be timed, and nothing is written."""

from __future__ import annotations

from typing import Any

from gqasearch.parallel import ONE, Workers
from gqasearch.run.forecast import forecast, plan_words
from gqasearch.run.run_folder import RunFolder
from gqasearch.steps.check_settings import check_run
from gqasearch.steps.kv_bytes import options_notes, settled
from gqasearch.steps.outlook import Outlook
from gqasearch.steps.texts import shortages
from gqasearch.steps.workspace import Workspace


def dry_run(
    work: Workspace,
    folder: RunFolder,
    workers: Workers = ONE,
    threads: int | None = None,
    *,
    memory: int | None = None,
) -> dict[str, str | list[str]]:
    """What is there -> sentences on it, to show. ``memory``: as of ``run``.

    Raises ``UserError`` for what the run would refuse, but for weights that are not finite and facts that only a
    prepared fitness knows.
    """
    asked, work = work, settled(work, folder.decision)
    outlook = check_run(work, workers, threads)
    work.source.tensors.headers  # noqa: B018 - for their errors
    folder.check(asked.config)
    lock = folder.path / ".lock"
    if folder.path.is_dir() and lock.is_file():
        folder.acquire().release()
    is_open = asked.config.decides_format and not folder.format.is_file()
    options = options_notes(asked) if is_open else []
    return {
        **_model_facts(work),
        **_search_facts(work, outlook),
        **({"budget": options} if options else {}),  # of the workspace it is that of one option
        **_text_facts(outlook),
        **_expectations(work, outlook, folder, memory),
        "notes": [*([] if options else outlook.notes()), *shortages(work)],
    }


def _model_facts(work: Workspace) -> dict[str, str | list[str]]:
    source, shape = work.source, work.source.geometry
    return {
        "model": f"{work.config.model}, {source.config['architectures'][0]}, {source.directory}",
        "heads": f"{shape.num_layers} layers of {shape.num_attention_heads} query heads and {shape.num_kv_heads} KV "
        f"heads of size {shape.head_dim}",
    }


def _search_facts(work: Workspace, outlook: Outlook) -> dict[str, str | list[str]]:
    return {
        "budget": outlook.heads_words(),
        "layout": outlook.layout_words(),
        "objectives": [_named(name, _fitness_parameters(work, name)) for name in work.config.objectives],
        "merge": _named(work.merge.name, work.merge.parameters()),
        "refine": _named(work.refinement.name, work.refinement.parameters()),
        "method": _named(work.method.name, work.method.parameters()),
    }


def _text_facts(outlook: Outlook) -> dict[str, str | list[str]]:
    texts = {f"{split} text": words for split, words in outlook.text_words().items()}
    return {**texts, "work": outlook.work_words()}


def _expectations(
    work: Workspace, outlook: Outlook, folder: RunFolder, memory: int | None
) -> dict[str, str | list[str]]:
    if folder.metrics.is_file():
        return {}
    return dict(plan_words(forecast(work, outlook, folder, memory=memory)))


def _fitness_parameters(work: Workspace, name: str) -> dict[str, Any]:
    return work.fitnesses[name].parameters() if name in work.fitnesses else {}


def _named(name: str, parameters: dict[str, Any]) -> str:
    """``name (a=1, b=2)``."""
    listed = ", ".join(f"{key}={value}" for key, value in parameters.items())
    return f"{name} ({listed})" if listed else name
