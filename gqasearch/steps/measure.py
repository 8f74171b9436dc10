"""How good and how large a model is: perplexity, KL to the parent, KV cache and parameters, on held-out text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gqasearch.checkpoints import merged_by_group, needs_remote_code, plan_checkpoint, require_trust, strange_code
from gqasearch.checkpoints.mimo import MIMO_ARCHITECTURE
from gqasearch.errors import UserError
from gqasearch.evaluation import (
    CONVENTIONS,
    ClimbState,
    Converter,
    KVSize,
    LayerStack,
    ParentLayers,
    cached_kv_size,
    computed_kv_bytes_per_token,
    count_parameters,
    embedding_cosines,
    model_runner,
    pooling_of,
)
from gqasearch.evaluation.quality import evaluate_models
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.grouping_document import GroupingDocument
from gqasearch.merging import make_merge
from gqasearch.models import (
    LayerWeights,
    ModelSource,
    Objective,
    Parent,
    load_model_within,
    objective_of,
    read_config,
    tie_heads,
)
from gqasearch.models.families import architecture_of, known_family
from gqasearch.models.family import text_of
from gqasearch.models.stored_dtype import value_bytes
from gqasearch.separate_grouping import AnyGrouping, changed_layers
from gqasearch.steps.metric_records import quality_record
from gqasearch.steps.texts import used_texts
from gqasearch.steps.workspace import Workspace

BASELINE = "neighbour"
CONVERTED = "converted"
PREDICTED: dict[Objective, str] = {
    "next-token": "the next token",
    "masked": "masked tokens",
    "hidden-states": "nothing (it has no head)",
}


@dataclass(frozen=True)
class Subject:
    """One model to measure, beside the parent: a checkpoint, or a grouping that is run in the parent with tied heads.

    ``runner``: computes its predictions, layer by layer where it can. ``kv``: the size of its keys and values, per
    token. ``parameters``: how many it has.
    """

    runner: LayerStack
    kv: KVSize
    parameters: int

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of the cache per token, with numbers as wide as the checkpoint stores them."""
        return self.kv.stored


def checkpoint_subject(work: Workspace, directory: Path, *, trust_remote_code: bool = False) -> Subject:
    """The checkpoint in ``directory``, loaded; the size of its cache is read off one that it filled. Raises as
    ``checkpoint_model`` does.
    """
    model = checkpoint_model(work, directory, trust_remote_code=trust_remote_code)
    runner = checkpoint_layers(work.source, directory, model)
    return Subject(runner, kv_size(work.source, model, directory), count_parameters(model))


def checkpoint_layers(source: ModelSource, directory: Path, model: PreTrainedModel) -> LayerStack:
    """What runs ``model``, which was loaded from ``directory`` and converted from ``source``.

    It is run layer by layer where its layers can be found, so that texts need not go through all of it at once. A model
    of another architecture, or one that brings code that is not ours, is run as a whole.
    """
    config = read_config(directory)
    family = known_family(config)
    ours = needs_remote_code(directory) and not strange_code(directory)
    if family is None and (ours or architecture_of(config) == MIMO_ARCHITECTURE):
        family, config = source.family.written_as(source.config)
    if family is None:
        return model_runner(model)
    return ParentLayers(Parent(str(directory), model, config, family, directory=directory))


def checkpoint_model(work: Workspace, directory: Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The checkpoint in ``directory`` as transformers loads it, in the dtype and on the device of ``work``.

    Raises ``UserError`` if it brings modelling code of its own, unless ``trust_remote_code``, and if its tokens are not
    the parent's, as then the two cannot be compared.
    """
    require_same_tokens(work.source, directory)
    if not trust_remote_code and needs_remote_code(directory):
        require_trust(directory)
    dtype: torch.dtype = getattr(torch, work.config.dtype)
    return load_model_within(directory, dtype, work.config.device, trust_remote_code=trust_remote_code)


def require_same_tokens(source: ModelSource, checkpoint: Path) -> None:
    """Raise ``UserError`` unless the checkpoint reads and predicts the same tokens as the parent."""
    own, theirs = read_config(checkpoint), source.config
    sizes = [text_of(one).get("vocab_size") for one in (own, theirs)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{checkpoint} has a vocabulary of {sizes[0]} tokens, the parent ({source.directory}) of "
            f"{sizes[1]}: it was not made from this parent. Give another --parent"
        )
    if objective_of(own) != objective_of(theirs):
        raise UserError(
            f"{checkpoint} predicts {PREDICTED[objective_of(own)]}, the parent ({source.directory}) "
            f"{PREDICTED[objective_of(theirs)]}: it was not made from this parent. Give another --parent"
        )


def kv_size(source: ModelSource, model: PreTrainedModel, directory: Path | None) -> KVSize:
    """The size of the keys and values of ``model``; ``source`` is its parent's.

    It is read off a cache that the model filled. An encoder has none: there it is that of the keys and values that it
    computes. Bytes are counted in the dtype in which the checkpoint in ``directory`` is stored, as engines will run it,
    not in the dtype of this run.
    """
    size = model.dtype.itemsize if directory is None else value_bytes(directory)
    if source.family.objective == "next-token":
        return cached_kv_size(model, size)
    shape = source.geometry
    computed = computed_kv_bytes_per_token(model, source.family, shape.num_layers, size)
    return KVSize(computed, (0, 0), shape.head_dim, 8 * size)


def grouping_subject(
    work: Workspace, converter: Converter, grouping: AnyGrouping, refined: Mapping[int, LayerWeights] | None = None
) -> Subject:
    """A grouping without a checkpoint: the parent computes with the merged heads in place of its own.

    ``refined``: layer index -> weights, of the layers that a refinement changed after the merge.
    """
    return _grouped(work, grouping, converter.runner(grouping, refined))


def _grouped(work: Workspace, grouping: AnyGrouping, runner: ParentLayers) -> Subject:
    """Cache and parameters are those of the checkpoint that would be written: a group of n heads has one key and value
    projection, not n, and some layouts have empty query heads.
    """
    parent, geometry = work.parent, work.parent.geometry
    size = parent.model.dtype.itemsize if parent.directory is None else value_bytes(parent.directory)
    first, removed = parent.layer(0), 0
    sides = ((first.k_bias, [layer.keys for layer in grouping]), (first.v_bias, [layer.values for layer in grouping]))
    for bias, partitions in sides:
        gone = sum(partition.num_heads - partition.num_groups for partition in partitions)
        removed += gone * geometry.head_dim * (geometry.hidden_size + int(bias is not None))
    if first.k_norms is not None:
        removed += geometry.head_dim * sum(layer.keys.num_heads - layer.keys.num_groups for layer in grouping)
    caches = parent.family.objective == "next-token"
    keys, values = (sum(partition.num_groups for partition in partitions) for _, partitions in sides)
    return Subject(
        runner,
        KVSize(
            grouping.kv_bytes_per_token(geometry.head_dim, size),
            (keys, values) if caches else (0, 0),
            geometry.head_dim,
            8 * size,
        ),
        count_parameters(parent.model) - removed + _padding(work, grouping, first),
    )


def _padding(work: Workspace, grouping: AnyGrouping, layer: LayerWeights) -> int:
    """Parameters of the empty query heads that a checkpoint of this grouping has; 0 where it can have no checkpoint.

    What another architecture adds that it is written as, such as Phi's biases, is not counted.
    """
    source, config = work.source, work.config
    try:
        layout = plan_checkpoint(source.family, source.config, grouping, config.layout, config.target)
    except UserError:
        return 0
    of_head = sum(part[0].numel() for part in (layer.q, layer.o, layer.q_bias, layer.q_norms) if part is not None)
    return of_head * sum(len(slots) - len(layer.q) for slots in layout.slots)


def baseline_subject(work: Workspace) -> Subject:
    """Neighbour grouping and the mean merge at this run's budget: the GQA paper's conversion."""
    joined, counts, merge = work.config.join, work.config.counts(work.source.geometry), make_merge("mean")
    work = work.unjoined
    geometry = work.parent.geometry
    heads = geometry.num_kv_heads
    neighbours = Grouping(tuple(LayerGrouping.neighbours(heads, joined * count) for count in counts))
    grouping = work.config.grouping_of(neighbours)

    def mean_layer(index: int) -> LayerWeights:
        layer = grouping.layers[index]
        return tie_heads(merged_by_group(merge, work.parent.layer(index), layer), layer, geometry.queries_per_kv)

    changed = changed_layers(grouping)
    return _grouped(work, grouping, ParentLayers(work.parent, changed, mean_layer))


def measure(
    work: Workspace, subjects: Mapping[str, Subject], *, is_run: bool = True, state: ClimbState | None = None
) -> dict[str, Any]:
    """Figures of the parent and of every subject on the held-out text, in the form of ``metrics.json``.

    ``is_run``: also say which texts the run gathered statistics and searched on; without it they are not read.
    ``state``: keeps how far the text has come, for a process that continues after a stop.
    """
    blocks = work.blocks("evaluation")
    parent, objective = work.unjoined.parent, work.source.family.objective
    work.progress.stage("evaluation", total=len(blocks.ids))
    own, qualities = evaluate_models(
        objective,
        ParentLayers(parent),
        {name: subject.runner for name, subject in subjects.items()},
        blocks,
        batch_blocks=work.config.batch_blocks,
        state=state,
        progress=lambda done, _: work.progress.update(done),
    )
    cosines = {}
    if objective != "next-token":
        runners, pooling = {name: subject.runner for name, subject in subjects.items()}, pooling_of(parent.directory)
        batch_blocks = work.config.batch_blocks
        cosines = embedding_cosines(ParentLayers(parent), runners, blocks, pooling=pooling, batch_blocks=batch_blocks)
    memory = (kv_size(work.unjoined.source, parent.model, parent.directory), count_parameters(parent.model))
    return {
        "convention": CONVENTIONS[objective],
        "block_length": work.config.block_length,
        "targets": own.targets,
        "texts": {
            **({"statistics": _text(work, "calibration"), "search": _text(work, "search")} if is_run else {}),
            "reported": {"source": blocks.source, "tokens": blocks.tokens, "fingerprint": blocks.fingerprint},
        },
        "parent": quality_record(own, *memory, work.config.seed),
        "results": {
            name: quality_record(quality, subjects[name].kv, subjects[name].parameters, work.config.seed)
            | ({"embedding_cosine": cosines[name]} if name in cosines else {})
            for name, quality in qualities.items()
        },
    }


def climb_state(
    work: Workspace, document: GroupingDocument, subjects: Mapping[str, Subject], folder: Path
) -> ClimbState:
    """The state in ``folder`` of this measurement; what another grouping, text or setting left there is not used."""
    config = work.config
    text = work.blocks("evaluation").fingerprint
    settings = (config.batch_blocks, config.dtype, config.device)
    facts = json.dumps([document.to_json(), list(subjects), work.source.identity, text, settings])
    return ClimbState(folder, hashlib.sha256(facts.encode()).hexdigest())


def _text(work: Workspace, split: Any) -> dict[str, Any]:
    """A text and whether this run looked at it."""
    if split not in used_texts(work):
        return {"used": False}
    blocks = work.blocks(split)
    return {"used": True, "source": blocks.source, "tokens": blocks.tokens, "fingerprint": blocks.fingerprint}
