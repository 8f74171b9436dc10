"""A short training of the three networks: norms that were put in become norms that the network was trained with."""

from __future__ import annotations

import math
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedModel

BATCH = 2  # blocks of a step
RATE, WARM_UP = 1e-3, 20


def train(model: PreTrainedModel, blocks: Tensor, steps: int) -> None:
    """On the first ``steps`` * ``BATCH`` of ``blocks`` (N, T), all parameters; AdamW with a warm-up and a cosine."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for step, ids in enumerate(islice(blocks.split(BATCH), steps)):
        share = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = RATE * share
        scores = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(scores, ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval()
