"""Which of the options is best: by KL through the format, on little text for all and on all of it for the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gqasearch.config import KV_BYTES
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_json
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import layer_rows
from gqasearch.steps.check_settings import check_settings
from gqasearch.steps.kv_bytes.byte_options import DEFAULT_SHARE, SLACK, Option, non_dominated, options_of
from gqasearch.steps.kv_bytes.cheap_groupings import groupings_of
from gqasearch.steps.kv_bytes.losses import FormatLosses
from gqasearch.steps.search_problem import GUIDE
from gqasearch.steps.workspace import Workspace

STAGE = "format"
FIRST_TOKENS = 2048  # of the search text, for all options
FINALISTS = 4  # of a budget; those of a front are all that are not clearly worse
CLEARLY = 1.3  # times the KL of another that takes no more bytes


@dataclass(frozen=True)
class Measured:
    """An option with its KL on so many tokens of the search text."""

    option: Option
    grouping: Grouping
    kl: float
    tokens: int


@dataclass(frozen=True)
class DecisionFiles:
    """Where a decision is written: ``format`` what was decided, ``pareto`` the front where bytes are an objective,
    ``candidates`` what was measured so far.
    """

    format: Path
    pareto: Path
    candidates: Path

    @classmethod
    def within(cls, folder: Path) -> DecisionFiles:
        """As they lie in a run's folder."""
        return cls(folder / "format.json", folder / "pareto.json", folder / "state" / "candidates")


def settled(work: Workspace, files: DecisionFiles) -> Workspace:
    """The workspace of what was decided in ``files``; before that of an option that can be, a rounded one if any."""
    if not work.config.decides_format:
        return work
    if files.format.is_file():
        return _of_settings(work, read_json(files.format)["settings"])
    possible = [option.settings() for option in possible_options(work)]
    return _of_settings(work, next((one for one in possible if one["kv_bits"] is not None), possible[0]))


def _of_settings(work: Workspace, settings: dict[str, Any]) -> Workspace:
    changes = {"objectives": (GUIDE,)} if KV_BYTES in work.config.objectives else {}
    return work.settled({**settings, **changes})


def possible_options(work: Workspace) -> list[Option]:
    """The options that a search can take; raises ``UserError`` for what is wrong with the first where none is."""
    found, errors = [], []
    for option in options_of(work):
        try:
            check_settings(_of_settings(work, option.settings()))
        except UserError as error:
            errors.append(error)
        else:
            found.append(option)
    if not found:
        raise errors[0]
    return found


def decide(work: Workspace, files: DecisionFiles) -> None:
    """Write ``format.json`` and, of a front, ``pareto.json``. What was measured before it was stopped is kept."""
    if files.format.is_file():
        return
    options = possible_options(work)
    work.progress.stage(STAGE, total=len(options))
    found = measured(work, files.candidates, options)
    share = DEFAULT_SHARE if work.config.kv_bytes is None else work.config.kv_bytes
    most = max(one.tokens for one in found)
    finalists = [one for one in found if one.tokens == most]
    front: list[Measured] = []
    if KV_BYTES in work.config.objectives:
        front = [finalists[index] for index in non_dominated([(one.kl, one.option.share) for one in finalists])]
        write_json(files.pareto, _pareto(work, front), overwrite=True)
    best = _best_within(share, finalists)
    record = {
        "kv_bytes": share,
        "settings": best.option.settings(),
        "text": work.blocks("search").source,
        "options": [
            _row(one) | {"chosen": one is best} | ({"on_front": one in front} if front else {}) for one in found
        ],
    }
    write_json(files.format, record, overwrite=True)


def _best_within(share: float, found: Sequence[Measured]) -> Measured:
    """The least KL of what takes so many bytes at most."""
    within = [one for one in found if one.option.share <= share * (1 + SLACK)]
    if not within:
        least = min(one.option.share for one in found)
        raise UserError(f"--kv-bytes {share:g}: no point of the front takes so few bytes, the least is {least:.4g}")
    return min(within, key=lambda one: one.kl)


def measured(work: Workspace, candidates: Path, options: Sequence[Option]) -> list[Measured]:
    """All options on little text, then those that may be the best on all of it, format by format."""
    groupings = groupings_of(work, options)
    losses = FormatLosses(work, candidates / "formats")
    whole = range(len(losses.batch_tokens))
    first = range(_batches_of(losses.batch_tokens, FIRST_TOKENS))

    def on(batches: range, option: Option) -> Measured:
        grouping = groupings[option.total]
        kl = losses(option.kv, work.config.grouping_of(grouping), batches)
        return Measured(option, grouping, kl, sum(losses.batch_tokens[batch] for batch in batches))

    work.progress.stage(STAGE, total=len(options))  # again: statistics are a stage of their own
    found = []
    for option in options:
        found.append(on(first, option))
        work.progress.update(len(found), detail=f"{option.kv.name}, {option.total} heads: KL {found[-1].kl:.4g}")
    if len(first) == len(whole):
        return found
    finalists = _not_clearly_worse(found) if KV_BYTES in work.config.objectives else _best(found)
    work.progress.stage(STAGE, total=len(finalists))
    for done, index in enumerate(sorted(finalists), start=1):
        found[index] = on(whole, found[index].option)
        work.progress.update(done)
    return found


def _batches_of(tokens: Sequence[int], wanted: int) -> int:
    """How many of the first batches have so many tokens, at least one."""
    done = 0
    for number, count in enumerate(tokens, start=1):
        done += count
        if done >= wanted:
            return number
    return len(tokens)


def _best(found: Sequence[Measured]) -> set[int]:
    return set(sorted(range(len(found)), key=lambda index: found[index].kl)[:FINALISTS])


def _not_clearly_worse(found: Sequence[Measured]) -> set[int]:
    """Those that no other of as few bytes beats by far."""
    return {
        index
        for index, one in enumerate(found)
        if not any(other.option.share <= one.option.share and other.kl * CLEARLY < one.kl for other in found)
    }


def _pareto(work: Workspace, front: Sequence[Measured]) -> dict[str, Any]:
    """``pareto.json``, with the format and bytes of every point."""
    points = [
        {
            "values": [one.kl, one.option.share],
            "format": one.option.kv.name,
            "kv_bytes_per_token": one.option.bytes_per_token,
            "kv_heads_total": one.grouping.kv_heads_total,
            "layers": layer_rows(
                [{"groups": [list(group) for group in layer.groups]} for layer in one.grouping],
                work.config.separate_kv,
            ),
        }
        for one in front
    ]
    return {"objectives": list(work.config.objectives), "points": points}


def _row(one: Measured) -> dict[str, Any]:
    option = one.option
    return {
        "format": option.kv.name,
        "kv_heads_total": option.total,
        "kv_bytes_per_token": option.bytes_per_token,
        "kv_share": option.share,
        "kl": one.kl,
        "tokens": one.tokens,
    }
