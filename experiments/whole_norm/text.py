"""Blocks of the embedded model's held-out text."""

from __future__ import annotations

from typing import Any

import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.embedded.text import Split, held_out_documents

LENGTH = 256


def blocks_of(split: Split, tokenizer: Any, tokens: int) -> TokenBlocks:
    """So many tokens of a split, (B, 256), each block with the first token that the model was trained with."""
    text = "\n\n".join(document.text for document in held_out_documents(split))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: tokens // LENGTH * (LENGTH - 1)]
    body = torch.tensor(ids).view(-1, LENGTH - 1)
    first = torch.full((len(body), 1), tokenizer.bos_token_id)
    whole = torch.cat([first, body], 1)
    return TokenBlocks(whole, torch.ones_like(whole, dtype=torch.bool), split, 1.0)
