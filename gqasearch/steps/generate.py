"""``evaluate --generate``: what the parent and a converted checkpoint write, and how both use a long context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from gqasearch.errors import UserError
from gqasearch.evaluation import How, ParentLayers
from gqasearch.evaluation.by_position import by_position
from gqasearch.evaluation.generation import continuation, same_tokens
from gqasearch.evaluation.needles import NEEDLES, Needles, needles, right_answers
from gqasearch.steps.measure import CONVERTED, checkpoint_layers, checkpoint_model
from gqasearch.steps.workspace import Workspace

PARENT = "parent"
PROMPTS, MOST_PROMPT_TOKENS, NEW_TOKENS = 3, 64, 64
NEEDLE_TEXTS = 64


def generate(
    work: Workspace, directory: Path, prompts: Sequence[str] = (), *, trust_remote_code: bool = False
) -> dict[str, Any]:
    """JSON-able: ``samples``, ``positions`` and ``needles`` of the parent and of the checkpoint in ``directory``.

    ``prompts``: what both go on from; the beginnings of a few blocks of the held-out text where none is given.
    Everything random is drawn from the seed of ``work.config``. Raises ``UserError`` for models that predict no next
    token, and as ``checkpoint_model`` does.
    """
    if work.source.family.objective != "next-token":
        raise UserError(f"--generate needs a model that predicts the next token; {work.source.directory} is an encoder")
    blocks, seed = work.blocks("evaluation"), work.config.seed
    begun = [_given(work, prompt) for prompt in prompts] if prompts else _begun(work)
    other = checkpoint_model(work, directory, trust_remote_code=trust_remote_code)
    models = {PARENT: work.parent.model, CONVERTED: other}
    work.progress.stage("generation", total=2 * len(begun))
    samples = [sample for index, prompt in enumerate(begun) for sample in _samples(work, models, prompt, index, seed)]
    stacks = (ParentLayers(work.parent), checkpoint_layers(work.source, directory, other))
    how = How(batch_blocks=work.config.batch_blocks, progress=lambda done, _: work.progress.update(done))
    work.progress.stage("positions", total=len(blocks.ids))
    rows = by_position(*stacks, blocks, **how)
    asked = needles(blocks, NEEDLE_TEXTS, np.random.default_rng(seed))
    found: list[dict[str, Any]] = []
    if asked is not None:
        work.progress.stage("needles", total=len(asked.ids))
        found = _by_distance(asked, right_answers(stacks, asked, **how))
    return {
        "seed": seed,
        "new_tokens": NEW_TOKENS,
        "block_length": work.config.block_length,
        "text": blocks.source,
        "samples": samples,
        "positions": [asdict(row) for row in rows],
        "needles": found,
        "choices": NEEDLES,
    }


def _given(work: Workspace, prompt: str) -> list[int]:
    found: list[int] = work.tokenizer(prompt)["input_ids"]
    limit = work.source.family.context_length(work.source.config)
    if not found:
        raise UserError("--prompt is empty; give a few words")
    if limit is not None and len(found) + NEW_TOKENS > limit:
        raise UserError(
            f"--prompt has {len(found)} tokens; the model's context of {limit} takes at most {limit - NEW_TOKENS}, as "
            f"{NEW_TOKENS} follow"
        )
    return found


def _begun(work: Workspace) -> list[list[int]]:
    """Beginnings of held-out blocks, far from each other."""
    blocks = work.blocks("evaluation")
    length = min(MOST_PROMPT_TOKENS, work.config.block_length // 2)
    chosen = np.linspace(0, len(blocks.ids) - 1, min(PROMPTS, len(blocks.ids))).round().astype(int)
    found: list[list[int]] = [blocks.ids[row][blocks.mask[row]][:length].tolist() for row in chosen]
    return found


def _samples(
    work: Workspace, models: dict[str, PreTrainedModel], prompt: list[int], index: int, seed: int
) -> list[dict[str, Any]]:
    """Greedy, then sampled; the noise of a prompt is its own, and both models' is the same."""
    limit = work.source.family.context_length(work.source.config)
    tokens = NEW_TOKENS if limit is None else min(NEW_TOKENS, limit - len(prompt))
    found = []
    for how in ("greedy", "sampled"):
        written = {
            name: continuation(
                model, prompt, tokens, np.random.default_rng([seed, index]) if how == "sampled" else None
            )
            for name, model in models.items()
        }
        found.append(
            {
                "prompt": work.tokenizer.decode(prompt),
                "how": how,
                **{name: work.tokenizer.decode(ids) for name, ids in written.items()},
                "same_tokens": same_tokens(*written.values()),
                "tokens": [len(ids) for ids in written.values()],
            }
        )
        work.progress.update(2 * index + len(found))
    return found


def _by_distance(asked: Needles, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Shares of right answers, the farthest key first; keys lie at the same places in all texts."""
    rows = []
    for distance in sorted(set(asked.distances.tolist()), reverse=True):
        own, converted = right[:, asked.distances == distance]
        shares = {PARENT: float(own.mean()), CONVERTED: float(converted.mean())}
        rows.append({"distance": distance, "questions": len(own), **shares})
    return rows
