"""From a comparison's files to its report."""

from __future__ import annotations

from typing import Any

from gqasearch.calibration import TokenBlocks
from gqasearch.comparison.comparison_config import NO_SEARCH, ComparisonConfig
from gqasearch.comparison.comparison_folder import ComparisonFolder
from gqasearch.comparison.conditions import Entry
from gqasearch.comparison.correlation import RULE
from gqasearch.comparison.differences import LEVEL
from gqasearch.comparison.ranking_tables import ranking_frame, sample_frame, winners_frame
from gqasearch.comparison.searches import Plan
from gqasearch.files import read_json, write_json
from gqasearch.reporting import TextUse
from gqasearch.reporting.comparison import ComparisonData
from gqasearch.run.inputs import require_same_inputs
from gqasearch.steps import ProcessCache, Workspace

WINNER_RULE = (
    f"better or worse than no search (neighbours, the same merge and refinement): Holm's p below {LEVEL}; not told "
    f"from the best: Holm's p against the winner with the lowest mean KL is {LEVEL} or more."
)
PURPOSES = {
    "calibration": "statistics of every layer; merges and refinements are fitted on it",
    "search": "fitness functions that run the model",
    "evaluation": "the quality that both questions are about; nothing was fitted or searched on it",
}


def facts_of(config: ComparisonConfig, plan: Plan, cache: ProcessCache) -> dict[str, Any]:
    """What a report needs besides the measurements: model, texts, entries, and what was left out.

    Raises ``UserError`` as reading the texts does.
    """
    work = Workspace(config.run_config(next(config.conditions()), NO_SEARCH), cache=cache)
    texts = {split: work.blocks(split) for split in ("calibration", "search", "evaluation")}
    return {
        "model": work.parent.id,
        "fingerprint": work.parent.fingerprint,
        "identity": work.parent.identity,
        "texts": {split: _text(blocks) for split, blocks in texts.items()},
        "entries": [[entry.fitness, entry.method] for entry in plan.entries],
        "left_out": list(plan.left_out),
    }


def write_facts(folder: ComparisonFolder, facts: dict[str, Any]) -> None:
    """Once; raises ``UserError`` where those that are there are of another model or text."""
    if folder.facts.is_file():
        require_same_inputs(folder.path, _inputs(read_json(folder.facts)), _inputs(facts))
    else:
        write_json(folder.facts, facts)


def _inputs(facts: dict[str, Any]) -> dict[str, str]:
    texts = {f"{split} text": text["fingerprint"] for split, text in facts["texts"].items()}
    model = {"model": facts["identity"]} if "identity" in facts else {}  # not in those of earlier versions
    return {**model, **texts}


def _text(blocks: TokenBlocks) -> dict[str, Any]:
    return {"source": blocks.source, "tokens": blocks.tokens, "fingerprint": blocks.fingerprint}


def comparison_data(folder: ComparisonFolder) -> ComparisonData:
    """The report of a finished comparison. Raises ``UserError`` where something is not there yet."""
    config, facts = folder.read_config(), read_json(folder.facts)
    environment = read_json(folder.environment)
    packages = {str(name): str(number) for name, number in environment.pop("packages").items()}
    entries = tuple(Entry(fitness, method) for fitness, method in facts["entries"])
    roles = {"evaluation": "held-out"}
    return ComparisonData(
        title=f"{facts['model']}: which fitness predicts quality?",
        ranking=ranking_frame(config, folder),
        sample=sample_frame(config, folder),
        winners=winners_frame(config, folder, entries),
        rules=(*((RULE,) if config.sample else ()), *((WINNER_RULE,) if config.seeds else ())),
        notes=_notes(config, facts),
        texts=tuple(
            TextUse(roles.get(split, split), text["source"], int(text["tokens"]), PURPOSES[split])
            for split, text in facts["texts"].items()
        ),
        configuration=config.to_yaml(),
        environment={**{str(key): str(value) for key, value in environment.items()}, **packages},
    )


def _notes(config: ComparisonConfig, facts: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    conditions = list(config.conditions())
    if config.sample:
        fitted = ", ".join(
            f"{condition.merge}: {config.ranked_refine(condition)}" for condition in conditions[: len(config.merges)]
        )
        tokens = min(config.sample_tokens, int(facts["texts"]["evaluation"]["tokens"]))
        notes.append(
            f"Ranked models were refined after the merge by ({fitted}) and measured on {tokens:,} held-out tokens."
        )
    if config.seeds:
        fitted = ", ".join(
            f"{condition.merge}: {config.refine(condition)}" for condition in conditions[: len(config.merges)]
        )
        budget = f"{config.evaluations:,} evaluations" if config.evaluations else f"{config.seconds:g} seconds"
        notes.append(
            f"Winners were refined by ({fitted}); no search began a generation after {budget}, an equal share for each "
            "layer where layers are searched one by one."
        )
        if config.seconds:
            notes.append("Searches were stopped by the clock: another machine finds other winners.")
    return (*notes, *(f"Left out: {reason}" for reason in facts["left_out"]))
