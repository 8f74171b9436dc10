"""From a grouping to a checkpoint: merge, refine, write; a layer at a time."""

from __future__ import annotations

import shutil
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from gqasearch.basis import Balance, balanced_layers
from gqasearch.budget import require_several_heads
from gqasearch.checkpoints import (
    Written,
    merged_by_group,
    write_checkpoint,
)
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter
from gqasearch.files import write_file
from gqasearch.grouping_document import GroupingDocument
from gqasearch.grouping_fit import check_fits
from gqasearch.merging import Merge, make_merge
from gqasearch.models import LayerWeights
from gqasearch.refining import NoRefinement, Refinement, make_refinement
from gqasearch.refining.refined_layers import copied
from gqasearch.rounding import KVFormat, parse_format
from gqasearch.separate_grouping import changed_layers
from gqasearch.steps.check_block import check_block
from gqasearch.steps.filled_slots import convertible, layout_of
from gqasearch.steps.workspace import Workspace


def document_merge(work: Workspace, document: GroupingDocument) -> Merge:
    """The merge that the grouping was searched for; the workspace's, if it names none."""
    said = document.merge
    if said is None or (said.name, dict(said.parameters)) == (work.merge.name, work.merge.parameters()):
        return work.merge  # which may be nowhere in the registry
    return make_merge(said.name, dict(said.parameters))


def document_converter(work: Workspace, document: GroupingDocument) -> Converter:
    """A converter with the merge of the grouping."""
    return Converter(work.parent, document_merge(work, document), lambda: work.statistics)


def document_refinement(work: Workspace, document: GroupingDocument) -> Refinement:
    """The refinement that the grouping names; the workspace's for a grouping that names no merge either."""
    said = document.refinement
    if said is not None:
        if (said.name, dict(said.parameters)) == (work.refinement.name, work.refinement.parameters()):
            return work.refinement
        return make_refinement(said.name, dict(said.parameters))
    return work.refinement if document.merge is None else NoRefinement()


def materialize(
    work: Workspace, document: GroupingDocument, out_dir: Path, *, refined_in: Path | None = None
) -> Written:
    """Write the converted checkpoint to ``out_dir``, which appears only when it is complete and was loaded back.

    The model is loaded only where the merge or the refinement has to run it. ``refined_in``: see ``refine_step``; a
    temporary folder if not given.
    """
    source, layout, target = work.source, work.config.layout, work.config.target
    check_convertible(work, document)
    block = check_block(source, work.config.calibration_text)
    with _kept_in(refined_in) as folder, convertible(work, document, copies_beside(folder)) as made:
        converted = converted_layers(made.work, made.document, folder)
        work.progress.stage("convert", total=source.geometry.num_layers)

        def layer(index: int) -> LayerWeights:
            work.progress.update(index)
            return converted(index)

        return write_checkpoint(
            *(made.work.source.directory, out_dir, made.document, layer),
            layout=layout,
            target=target,
            block=block,
            told=made.told,
        )


def copies_beside(folder: Path) -> Path:
    """Where the model with copies lies while ``folder`` holds refined layers, which may be emptied."""
    return folder.with_name(f"{folder.name}-copies")


@contextmanager
def _kept_in(folder: Path | None) -> Iterator[Path]:
    """This folder, or a temporary one."""
    if folder is not None:
        yield folder
        return
    with TemporaryDirectory(prefix="gqasearch-refined-") as temporary:
        yield Path(temporary) / "layers"


def reads_text(work: Workspace, document: GroupingDocument) -> bool:
    """Whether the grouping's merge, refinement or basis is fitted on the calibration text."""
    fitted = document.kv_bits is not None or document_refinement(work, document).reads_text
    return fitted or document_merge(work, document).needs != "weights"


def check_convertible(work: Workspace, document: GroupingDocument) -> None:
    """Raise ``UserError`` for a grouping of another model, and one that can have no checkpoint as it is asked for."""
    own = work.unjoined.source
    require_several_heads(own.geometry)
    check_fits(document, own.geometry, fingerprint=None)  # before the weights are read
    if document.join != work.config.join:
        raise UserError(f"this grouping has KV heads of {document.join} times the size, join is {work.config.join}")
    layout_of(work, document)
    check_fits(document, own.geometry, own.fingerprint if document.model.fingerprint else None)


def converted_layers(
    work: Workspace, document: GroupingDocument, folder: Path | None = None
) -> Callable[[int], LayerWeights]:
    """What gives a layer after the grouping's merge, refinement and basis: k, v (G, ...).

    ``folder``: see ``refine_step``.
    """
    merge, grouping = document_merge(work, document), document.partitions
    if not reads_text(work, document):
        return lambda index: merged_by_group(merge, work.source.layer(index), grouping.layers[index])
    converter = document_converter(work, document)
    refined = refine_step(work, converter, document, folder)
    return lambda index: converter.converted_layer(grouping, index, refined)


def refine_step(
    work: Workspace, converter: Converter, document: GroupingDocument, folder: Path | None = None
) -> Mapping[int, LayerWeights]:
    """Layers that the grouping's refinement changes after the merge, and its basis: fitted on the calibration text.

    ``folder``: where they lie, and what a step that was stopped left is gone on from, if it was of the same grouping;
    they are in memory if it is not given.
    """
    refinement = document_refinement(work, document)
    if converter.merge.needs == "statistics" and changed_layers(document.partitions):
        work.statistics  # noqa: B018 - a stage of its own, before all that merges
    if not refinement.reads_text:
        return balance_step(work, converter, document, {}, folder)
    if folder is not None:
        _keep_of(document, folder)
    work.progress.stage("refine", total=refinement.total_steps(document.partitions))
    refined = converter.refine(
        document.partitions,
        work.blocks("calibration"),
        refinement,
        batch_blocks=work.config.batch_blocks,
        folder=folder,
        progress=lambda done, _: work.progress.update(done),
    )
    return balance_step(work, converter, document, refined, folder)


def balance_step(
    work: Workspace,
    converter: Converter,
    document: GroupingDocument,
    refined: Mapping[int, LayerWeights],
    folder: Path | None,
) -> Mapping[int, LayerWeights]:
    """All layers in the basis for the grouping's rounded cache; ``refined`` where it names none."""
    if document.kv_bits is None:
        return refined
    if folder is None:
        with TemporaryDirectory(prefix="gqasearch-basis-") as temporary:
            found = balance_step(work, converter, document, refined, Path(temporary))
            return {index: copied(layer) for index, layer in found.items()}
    _keep_of(document, folder)
    work.progress.stage("basis", total=work.parent.geometry.num_layers)
    kv = parse_format(document.kv_bits)
    balanced = balanced_layers(
        work.parent,
        document.partitions,
        lambda index: converter.converted_layer(document.partitions, index, refined),
        work.blocks("calibration"),
        kv,
        folder / "basis",
        Balance(seed=work.config.seed),
        progress=lambda done, _: work.progress.update(done),
    )
    return rounded_step(work, document, balanced, kv, folder / "rounded")


def rounded_step(
    work: Workspace, document: GroupingDocument, balanced: Mapping[int, LayerWeights], kv: KVFormat, folder: Path
) -> Mapping[int, LayerWeights]:
    """The layers that the refinement then fits once more, with a cache that is rounded as ``kv`` says; ``balanced``
    where it has no such part.
    """
    refinement, grouping = document_refinement(work, document).after_basis(), document.partitions
    if refinement is None or not (steps := refinement.total_steps(grouping, kv)):
        return balanced
    work.progress.stage("rounded", total=steps)
    refined = refinement.refine(
        work.parent,
        grouping,
        lambda index: balanced[index],
        work.blocks("calibration"),
        batch_blocks=work.config.batch_blocks,
        folder=folder,
        kv=kv,
        progress=lambda done, _: work.progress.update(done),
    )
    return ChainMap(cast(dict[int, LayerWeights], refined), cast(dict[int, LayerWeights], balanced))


def _keep_of(document: GroupingDocument, folder: Path) -> None:
    """Empty ``folder`` of what was made for another grouping."""
    said, now = folder / "grouping.json", document.to_json()
    if not said.is_file() or said.read_text(encoding="utf-8") != now:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_file(said, now)
