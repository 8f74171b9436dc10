"""The facts that a plan is counted from: of the model's files, the settings and the texts. No weights are read."""

from __future__ import annotations

import math

from gqasearch.basis import Balance
from gqasearch.basis.attention_cost import TOKENS as BASIS_LENGTH
from gqasearch.calibration.hidden_states import ROOM as STREAM_ROOM
from gqasearch.config import KV_BYTES
from gqasearch.models.device import devices_of
from gqasearch.models.family import text_of
from gqasearch.models.loading_on_demand import room_on
from gqasearch.refining import Joint, Refinement
from gqasearch.run.cost_plan import Sizes
from gqasearch.searching import most_generations
from gqasearch.steps.kv_bytes.byte_options import FRONT_SIZES, options_of
from gqasearch.steps.kv_bytes.decide import FINALISTS, FIRST_TOKENS
from gqasearch.steps.outlook import Outlook
from gqasearch.steps.texts import used_texts
from gqasearch.steps.workspace import Workspace

# Distinct groups of a layer that searches ask for, as measured: at one number of groups per head; for all numbers of
# groups where a search is told no limit of its own; and per pair of heads where it is told to have none.
GROUPS_PER_HEAD, CURVE_GROUPS, GROUPS_PER_PAIR = 132, 10_000, 276
# A group of a curve over one of the mean size, as its cost grows: some are far larger.
CURVE_HEADS = 1.5
VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def sizes_of(work: Workspace, outlook: Outlook) -> Sizes:
    """Of the run that ``work`` describes, from its beginning."""
    source, config, shape = work.source, work.config, work.source.geometry
    vocabulary = int(text_of(source.config)["vocab_size"])
    stored = [header.tensors[name] for header in source.tensors.headers.values() for name in header.tensors]
    values = sum(math.prod(tensor.shape) for tensor in stored)
    outside = sum(math.prod(tensor.shape) for tensor in stored if vocabulary in tensor.shape)
    read = {split: work.blocks(split).tokens for split in used_texts(work)}
    steps, step_blocks = _descent(work.refinement, config.batch_blocks)
    counts = work.budget.counts
    return Sizes(
        layers=shape.num_layers,
        hidden=shape.hidden_size,
        query_heads=shape.num_attention_heads,
        head_dim=shape.head_dim,
        layer_values=max(1, (values - outside) // shape.num_layers),
        other_values=outside,
        vocabulary=vocabulary,
        value_bytes=VALUE_BYTES[config.dtype],
        stored_bytes=sum(tensor.nbytes for tensor in stored),
        room=room_on(config.device) * len(set(devices_of(config.device))),
        stream_room=STREAM_ROOM,
        block_length=config.block_length,
        batch_blocks=config.batch_blocks,
        calibration_tokens=read.get("calibration", 0) if "statistics" in work.needs() else 0,
        refine_tokens=read.get("calibration", 0) if work.refinement.reads_text else 0,
        evaluation_tokens=read["evaluation"],
        groups=_groups(work),
        group_heads=shape.num_kv_heads * len(counts) / sum(counts) * (CURVE_HEADS if _is_curve(work) else 1.0),
        candidates=_candidates(work, outlook),
        model_tokens=_model_tokens(work, outlook),
        steps=steps,
        step_tokens=step_blocks * config.block_length,
        joint_steps=work.refinement.joint_steps if isinstance(work.refinement, Joint) else 0,
        joint_tokens=work.refinement.joint_blocks * config.block_length if isinstance(work.refinement, Joint) else 0,
        models=(3 if config.baseline else 2) + 2 * (config.kv_bits is not None),
        materialize=config.materialize,
        option_tokens=_option_tokens(work),
        **_basis(work, read.get("calibration", 0)),
    )


def _option_tokens(work: Workspace) -> int:
    """Tokens that are read to decide on a format."""
    if not work.asked.decides_format:
        return 0
    options = len(options_of(work.settled(dict(work.asked))))
    few = FRONT_SIZES if KV_BYTES in work.asked.objectives else FINALISTS
    return options * FIRST_TOKENS + min(options, few) * work.blocks("search").tokens


def _basis(work: Workspace, tokens: int) -> dict[str, int]:
    """What the basis for a rounded cache takes."""
    if work.config.kv_bits is None:
        return {}
    balance, length = Balance(), min(work.config.block_length, BASIS_LENGTH)
    read = min(tokens, balance.tokens)
    after = work.refinement.after_basis()
    if after is not None and work.budget.is_identity and not after.fits_whole:
        after = None
    return {
        "basis_tokens": read,
        "basis_steps": balance.key_steps,
        "basis_step_tokens": balance.batch * length,
        "rounded_steps": 0 if after is None else int(after.parameters().get("steps", 0)),
    }


def _descent(refinement: Refinement, batch_blocks: int) -> tuple[int, int]:
    """Steps that a refinement takes per layer besides walking it, and blocks of text in each."""
    if not refinement.reads_text:
        return 0, 0
    parameters = refinement.parameters()
    return int(parameters.get("steps", 0)), int(parameters.get("batch_blocks", batch_blocks))


def _groups(work: Workspace) -> int:
    """Distinct groups of a layer whose error has to be computed; fitness from pairs of heads needs none."""
    heads = work.source.geometry.num_kv_heads
    if "guide" not in work.method.needs and "statistics" not in {fitness.needs for fitness in work.fitnesses.values()}:
        return 0
    every = sum(math.comb(heads, size) for size in _group_sizes(work, heads))
    if work.method.name == "neighbour":
        return min(every, heads)
    most = work.method.parameters().get("max_groups", CURVE_GROUPS)  # None: every one that a search comes upon
    return int(min(every, (most or GROUPS_PER_PAIR * heads**2) if _is_curve(work) else GROUPS_PER_HEAD * heads))


def _group_sizes(work: Workspace, heads: int) -> range:
    """Heads that one group of a layer can have, where the layers have their numbers of groups already."""
    if _is_curve(work):
        return range(1, heads + 1)
    fewest, most = min(work.budget.counts), max(work.budget.counts)
    return range(heads if most == 1 else 1, heads - fewest + 2)


def _is_curve(work: Workspace) -> bool:
    """Whether a layer's errors are looked for at all numbers of groups."""
    return "guide" in work.method.needs or work.config.layers_may_differ


def _candidates(work: Workspace, outlook: Outlook) -> int:
    """Partitions that a search goes through, of one layer each where layers are searched apart."""
    if work.config.max_evaluations is not None:
        return work.config.max_evaluations
    most = None if outlook.problem is None else most_generations(work.method, outlook.problem)
    parameters = work.method.parameters()
    return (most or 0) * int(parameters.get("offspring") or parameters.get("population") or 1)


def _model_tokens(work: Workspace, outlook: Outlook) -> int:
    """Tokens that candidates make the model read, at most: each of them all, or (staged) most of them few."""
    running = [fitness for fitness in work.fitnesses.values() if fitness.needs == "forward"]
    if not running:
        return 0
    tokens = work.blocks("search").tokens
    parameters = work.method.parameters()
    first = int(parameters.get("first_tokens") or tokens)
    rungs = 1 + max(0.0, math.log(max(1.0, tokens / first), int(parameters.get("reduction") or 2)))
    return round(_candidates(work, outlook) * min(tokens, first) * rungs) * len(running)
