"""The plan of a run before it: made from a timed first batch, told, and held against what the machine has free."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.errors import UserError
from gqasearch.files import cache_root
from gqasearch.models import Parent, enter, quick_products, run_layer
from gqasearch.models.device import devices_of
from gqasearch.models.loading_on_demand import load_on_demand
from gqasearch.run.cost_plan import Plan, Rates, Sizes, make_plan
from gqasearch.run.free_room import free_disk, free_memory, same_disk
from gqasearch.run.peak_memory import resident_bytes
from gqasearch.run.run_folder import RunFolder
from gqasearch.run.sizes import sizes_of
from gqasearch.steps.outlook import Outlook
from gqasearch.steps.workspace import Workspace

PRODUCT_ROWS, FACTOR_SIZE = 256, 128
SHORT = 0.1  # seconds; what took less is timed on more, or again
MOST_SETTINGS = 3  # that a refusal names


def forecast(
    work: Workspace, outlook: Outlook, folder: RunFolder, *, parent: Parent | None = None, memory: int | None = None
) -> Plan:
    """The plan of what is left of a run. ``parent``: if it is loaded; else one layer of it is read.

    ``memory``: bytes that the process may have [default: what it has and what is free]. Raises ``UserError`` where
    that, or the disk, will not do.
    """
    base = resident_bytes()
    sizes = sizes_of(work, outlook)
    blocks = work.blocks(
        "calibration" if sizes.calibration_tokens or sizes.refine_tokens or sizes.basis_tokens else "evaluation"
    )
    rates = measured_rates(parent or _skeleton(work), blocks, work.config.batch_blocks, base)
    done = [name for name, there in _done(folder) if there]

    def plan(asked: Sizes) -> Plan:
        return make_plan(asked, rates).without(done)

    require_room(sizes, plan, folder.path, _limit(work) if memory is None else memory)
    return plan(sizes)


def _limit(work: Workspace) -> int | None:
    """Bytes that the process may have; of GPUs where these are what computes, as it has what a plan counts."""
    devices = [torch.device(name) for name in devices_of(work.config.device)]
    on_device = devices[0].type == "cuda"
    free = sum(torch.cuda.mem_get_info(device)[0] for device in devices) if on_device else free_memory()
    return None if free is None else free + resident_bytes()


def _skeleton(work: Workspace) -> Parent:
    """The parent with none of its weights in memory."""
    source, config = work.source, work.config
    model = load_on_demand(source.directory, getattr(torch, config.dtype), config.device)
    return Parent(config.model, model, source.config, source.family, directory=source.directory)


def _done(folder: RunFolder) -> Iterator[tuple[str, bool]]:
    """Stage -> whether its result is there."""
    yield from ((name, folder.grouping.is_file()) for name in ("calibration", "format", "search"))
    yield from ((name, folder.model.is_dir()) for name in ("refine", "basis", "rounded", "convert"))


def measured_rates(parent: Parent, blocks: TokenBlocks, batch_blocks: int, base: int) -> Rates:
    """Seconds on this machine now: a decoder layer on a first block of text, or a whole batch where that is quick;
    one product; one small eigenvalue problem.
    """
    hidden, device = parent.geometry.hidden_size, parent.device
    with torch.no_grad(), parent.layer_loaded(0):
        layer = _layer_seconds(parent, blocks, 1)
        layer = layer if layer[0] > SHORT else _layer_seconds(parent, blocks, batch_blocks)
        rows, square = torch.ones(PRODUCT_ROWS, hidden, device=device), torch.ones(hidden, hidden, device=device)
        product = _seconds(lambda: rows @ square)
        matrix = torch.eye(FACTOR_SIZE, dtype=torch.float64) + 1 / FACTOR_SIZE
        factor = _seconds(lambda: torch.linalg.eigh(matrix))
    return Rates(layer[0] / layer[1], product / (PRODUCT_ROWS * hidden**2), factor / FACTOR_SIZE**3, base)


def _layer_seconds(parent: Parent, blocks: TokenBlocks, batch_blocks: int) -> tuple[float, int]:
    """Seconds of the first decoder layer on a first batch, and the batch's tokens."""
    ids, mask = next(iter(blocks.batches(batch_blocks)))
    entered = enter(parent, ids, mask)

    def run() -> None:
        with quick_products(parent):
            run_layer(parent, 0, entered.hidden, entered.arguments[0])

    return _seconds(run), ids.numel()


def _seconds(call: Callable[[], object]) -> float:
    """Of one call, after one that has memory and libraries ready; the best of three where it is short."""
    finish = torch.cuda.synchronize if torch.cuda.is_available() else int
    call()
    taken: list[float] = []
    for _ in range(3):
        finish()
        started = time.perf_counter()
        call()
        finish()
        taken.append(time.perf_counter() - started)
        if taken[0] > SHORT:
            break
    return min(taken)


def plan_words(plan: Plan | None) -> list[tuple[str, str]]:
    """What is told of a plan, (of what, in words); nothing where all is done."""
    if plan is None or not plan.stages:
        return []
    parts = ", ".join(f"{stage.name} {time_words(stage.seconds)}" for stage in plan.stages)
    largest = plan.largest
    disk = f"{size_words(plan.folder_disk)} in the run folder, {size_words(plan.cache_disk)} in the cache"
    return [
        ("expected time", f"about {time_words(plan.seconds)} ({parts})"),
        ("expected memory", f"up to {size_words(largest.bytes)} ({largest.name})"),
        ("expected disk", f"up to {disk}"),
    ]


def time_words(seconds: float) -> str:
    """Two digits are more than an estimate is worth."""
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_words(count: float) -> str:
    """Bytes in words, one MB at the least."""
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{max(count / 1e6, 1):.0f} MB"


def require_room(sizes: Sizes, plan: Callable[[Sizes], Plan], folder: Path, memory: int | None) -> None:
    """Raise ``UserError`` where the run will not fit, naming the settings that help most.

    ``memory``: bytes that the process may have; None for no limit. ``folder``: the run's.
    """
    spaces = _spaces(folder)

    def lacks(asked: Sizes) -> dict[str, float]:
        """What is short -> bytes that are missing."""
        found = plan(asked)
        needs = [("memory", found.largest.bytes, memory), *((name, need(found), free) for name, need, free in spaces)]
        return {name: need - free for name, need, free in needs if free is not None and need > free}

    short = lacks(sizes)
    if not short:
        return
    found = plan(sizes)
    limits = {"memory": memory or 0, **{name: free for name, _, free in spaces}}
    needs = [
        f"{size_words(limits[what] + lack)} of {what} and may take {size_words(limits[what])}"
        for what, lack in short.items()
    ]
    chosen, relieved = _relief(sizes, lambda asked: sum(lacks(asked).values()))
    named = " and ".join(filter(None, [", ".join(chosen[:-1]), *chosen[-1:]])) or "no other setting"
    after = plan(relieved)
    verdict = "it then fits" if not lacks(relieved) else "that is still too much: it takes a larger machine"
    raise UserError(
        f"this run needs about {', '.join(needs)} (most in {found.largest.name}). With {named} it needs "
        f"{size_words(after.largest.bytes)} of memory and {size_words(after.folder_disk + after.cache_disk)} of disk: "
        f"{verdict}. If you know better, say with --memory GB what it may take"
    )


def _spaces(folder: Path) -> list[tuple[str, Callable[[Plan], float], int]]:
    """Disks that a run writes to: name, what it needs of it, bytes free."""
    cache = cache_root()
    if same_disk(folder, cache):
        return [("disk", lambda plan: plan.folder_disk + plan.cache_disk, free_disk(folder))]
    return [
        ("disk", lambda plan: plan.folder_disk, free_disk(folder)),
        ("disk for the cache", lambda plan: plan.cache_disk, free_disk(cache)),
    ]


def _relief(sizes: Sizes, missing: Callable[[Sizes], float]) -> tuple[list[str], Sizes]:
    """Settings that take most off what is missing, one after another, and the sizes with all of them."""
    chosen: list[str] = []
    while len(chosen) < MOST_SETTINGS and (left := [one for one in _settings(sizes) if one[0] not in chosen]):
        words, sizes = min(left, key=lambda one: (missing(one[1]), one[1].batch_tokens))
        chosen.append(words)
    return chosen, sizes


def _settings(s: Sizes) -> Iterator[tuple[str, Sizes]]:
    """Settings that make a run smaller, those first that change least of its result; with the sizes under each."""
    if s.batch_blocks > 1:
        yield "--batch-blocks 1", replace(s, batch_blocks=1)
    few = max(s.block_length, 4096)
    fewer = {name: min(few, getattr(s, name)) for name in ("calibration_tokens", "refine_tokens")}
    if few < max(s.calibration_tokens, s.refine_tokens):
        yield f"--calibration-tokens {few}", replace(s, **fewer)
    if s.value_bytes > 2:
        yield "--dtype bfloat16", replace(s, value_bytes=2)
    length = max(64, s.block_length // 4)
    if length < s.block_length:
        yield f"--block-length {length}", replace(s, block_length=length)
    if s.materialize:
        yield "--no-materialize", replace(s, materialize=False)
    if s.refine_tokens:
        yield "--refine none", replace(s, refine_tokens=0, steps=0)
