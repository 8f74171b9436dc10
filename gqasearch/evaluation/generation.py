"""What two models write after the same words: greedily, and sampled with the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from gqasearch.models import device_of


class GumbelNoise(LogitsProcessor):
    """Noise under which the likeliest token is a sample of the model's distribution (Gumbel-max; Maddison et al., arXiv
    1411.0030, Section 1).

    Two models that are given generators of one seed part only where their distributions do.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + torch.from_numpy(self.rng.gumbel(size=tuple(scores.shape))).to(scores)


def continuation(
    model: PreTrainedModel, prompt: Sequence[int], tokens: int, rng: np.random.Generator | None = None
) -> list[int]:
    """At most ``tokens`` tokens after ``prompt``, fewer where the model ends the text: the likeliest ones, or with
    ``rng`` sampled at temperature 1.
    """
    ids = torch.tensor([list(prompt)], device=device_of(model))
    ends = getattr(model.generation_config, "eos_token_id", None)
    plain = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=ends,
        pad_token_id=ends[0] if isinstance(ends, list) else ends,
    )
    noise = [] if rng is None else [GumbelNoise(rng)]
    generate: Any = model.generate  # transformers types it as a module's attribute
    with torch.no_grad():
        out = generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=plain,
            logits_processor=LogitsProcessorList(noise),
        )
    found: list[int] = out[0, ids.shape[1] :].tolist()
    return found


def same_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with alike."""
    parts = [index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    return parts[0] if parts else min(len(one), len(other))
