"""Blocks of the embedded model's held-out text."""

from __future__ import annotations

import random
from typing import Any

import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.embedded import training_documents
from gqasearch.embedded.library_text import Split, held_out_documents

LENGTH = 256
CHARACTERS = 8  # of a token, at most, on average over many


def blocks_of(split: Split, tokenizer: Any, tokens: int) -> TokenBlocks:
    """So many tokens of a split, (B, 256), each block with the first token that the model was trained with."""
    return _blocks("\n\n".join(document.text for document in held_out_documents(split)), split, tokenizer, tokens)


def training_blocks(tokenizer: Any, tokens: int, seed: int = 0) -> TokenBlocks:
    """The same of what the embedded model was trained on, documents in random order."""
    texts = [document.text for document in training_documents()]
    random.Random(seed).shuffle(texts)
    return _blocks("\n\n".join(texts)[: CHARACTERS * tokens], "training", tokenizer, tokens)


def _blocks(text: str, name: str, tokenizer: Any, tokens: int) -> TokenBlocks:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: tokens // LENGTH * (LENGTH - 1)]
    body = torch.tensor(ids[: len(ids) // (LENGTH - 1) * (LENGTH - 1)]).view(-1, LENGTH - 1)
    first = torch.full((len(body), 1), tokenizer.bos_token_id)
    whole = torch.cat([first, body], 1)
    return TokenBlocks(whole, torch.ones_like(whole, dtype=torch.bool), name, 1.0)
