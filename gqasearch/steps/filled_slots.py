"""Second reads in a run: chosen when the search is done, and a source that has the heads that read twice as often.

What merges, refines and writes then takes that source for an ordinary model (``gqasearch.second_reads``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gqasearch.calibration import Statistics
from gqasearch.calibration.copied_statistics import CopiedHeads
from gqasearch.checkpoints import Layout, Told, filled_layout, plan_checkpoint, write_with_copies
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord
from gqasearch.merging.second_read_choice import choose_second_reads
from gqasearch.models import ModelSource
from gqasearch.models.in_memory import InMemory
from gqasearch.second_reads import SecondReads, with_second_reads
from gqasearch.steps.workspace import OtherModel, Workspace


def check_fill_slots(work: Workspace) -> None:
    """Raise ``UserError`` where ``fill_slots`` is asked for and there are no slots to fill, or nothing to fit them."""
    config = work.config
    if not config.fill_slots:
        return
    against = {
        "separate_kv": config.separate_kv,
        "join": config.join > 1,
        "equal_sizes, which leaves no slot to spare": config.equal_sizes,
        "layers of different numbers of groups (uneven, kv_budget, kv_bytes, objective kv-ratio)": (
            config.layers_may_differ or config.decides_format or work.method.splits_budget
        ),
        f"layout {config.layout}, which pads nothing or layer by layer": config.layout
        in ("deci", "mimo", "openelm", "anymodel", "ragged"),
        "refine none: what reads twice must be fitted": config.refine == "none",
    }
    if any(against.values()):
        raise UserError(f"fill_slots does not go with {next(name for name, given in against.items() if given)}")
    family, source = work.source.family, work.source
    if isinstance(source, InMemory):
        raise UserError("fill_slots: a model with more heads is made from a checkpoint's files; load a folder")
    if family.written_as(source.config)[0] is not family or not family.has_grouped_form:
        raise UserError(
            f"fill_slots: slots to spare are those of a padded stock form, and {source.config['architectures'][0]} has "
            "none of its own. Leave it out"
        )


def chosen_second_reads(work: Workspace, grouping: Grouping) -> tuple[SecondReads, ...]:
    """Of every layer, (L,); none where no slots are to spare, or ``fill_slots`` was not asked for."""
    nothing: tuple[SecondReads, ...] = ((),) * len(grouping)
    if not work.config.fill_slots:
        return nothing
    padded, shape = _padded(work, grouping), work.source.geometry
    if padded.query_heads == shape.num_attention_heads:
        return nothing
    room = padded.query_heads // padded.kv_heads // shape.queries_per_kv
    if room > shape.num_kv_heads:
        raise UserError(
            f"--fill-slots: every group gets room for {room} heads, the model has {shape.num_kv_heads}, and none reads "
            "a group twice. Leave it out"
        )
    merge = Converter(work.parent, work.merge, lambda: work.statistics, measure=True).layer_merge
    return tuple(choose_second_reads(merge(index), layer, room) for index, layer in enumerate(grouping))


def _padded(work: Workspace, grouping: Grouping) -> Layout:
    """The layout of the grouping without second reads."""
    source, config = work.source, work.config
    return plan_checkpoint(source.family, source.config, grouping, config.layout, config.target)


def layout_of(work: Workspace, document: GroupingDocument) -> Layout:
    """The layout of a document's checkpoint; raises ``UserError`` where it can have none."""
    source, config = work.source, work.config
    planned = plan_checkpoint(source.family, source.config, document.partitions, config.layout, config.target)
    if not document.has_second_reads:
        return planned
    reads = [layer.second_reads for layer in document.layers]
    return filled_layout(planned, document.grouping, reads, source.geometry.queries_per_kv)


def with_copies(document: GroupingDocument) -> GroupingDocument:
    """The same of a source that has the heads that read twice as often: partitions of more heads, no second reads.

    It names no fingerprint, as such a source is made for the conversion.
    """
    model, more = document.model, len(document.layers[0].second_reads)
    wider = replace(
        model,
        num_attention_heads=model.num_attention_heads + more * document.queries_per_kv,
        num_key_value_heads=model.num_key_value_heads + more,
        fingerprint="",
    )
    return replace(document, model=wider, layers=tuple(map(_record_with_copies, document.layers)))


def _record_with_copies(layer: LayerRecord) -> LayerRecord:
    return replace(layer, grouping=with_second_reads(layer.grouping, layer.second_reads), second_reads=())


@dataclass(frozen=True)
class Convertible:
    """What a conversion is made from. ``told``: what it says of itself, if not that."""

    work: Workspace
    document: GroupingDocument
    told: Told | None = None


@contextmanager
def convertible(work: Workspace, document: GroupingDocument, folder: Path) -> Iterator[Convertible]:
    """``document`` and its model; with second reads both with copies. The model's files are then in ``folder`` within
    the block, which is made and removed.
    """
    if not document.has_second_reads:
        yield Convertible(work, document)
        return
    layout = layout_of(work, document)
    copied = tuple(tuple(head for head, _ in layer.second_reads) for layer in document.layers)
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed; writing takes no time beside the rest
    try:
        source = write_with_copies(work.source, copied, folder)
        told = Told(document, layout, work.source.directory)
        yield Convertible(_with_copied_heads(work, source, copied), with_copies(document), told)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_copied_heads(work: Workspace, source: ModelSource, copied: tuple[tuple[int, ...], ...]) -> Workspace:
    """Of the model in ``source``, which has copies of these heads, (L, n), with the statistics of the originals."""

    def statistics() -> Statistics:
        return CopiedHeads(work.statistics, copied, work.source.geometry.queries_per_kv)

    return work.of_model(OtherModel(source, statistics=statistics, made_from=work))
