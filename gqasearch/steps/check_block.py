"""The block of text that a written checkpoint is loaded back and run on."""

from __future__ import annotations

import torch

from gqasearch.calibration.large_file import stream_documents
from gqasearch.checkpoints import MOST_TOKENS, CheckBlock
from gqasearch.errors import UserError
from gqasearch.models import ModelSource
from gqasearch.models.companions import has_tokenizer
from gqasearch.models.family import text_of
from gqasearch.models.loading import load_tokenizer

CHARACTERS = 16 * MOST_TOKENS  # more than enough for so many tokens, few enough for any tokenizer


def check_block(source: ModelSource, text: str) -> CheckBlock:
    """The beginning of the calibration part of ``text`` in the source's tokens; the model itself is not loaded.

    Of a source without a tokenizer, tokens that are drawn. Raises ``UserError`` as ``stream_documents`` does.
    """
    if not has_tokenizer(source.directory):
        return CheckBlock.drawn(source.config)
    try:
        tokenizer = load_tokenizer(source.directory)
    except UserError:
        return CheckBlock.drawn(source.config)
    ids = tokenizer(_beginning(text), verbose=False)["input_ids"]
    known = [int(token) for token in ids if token < int(text_of(source.config)["vocab_size"])][:MOST_TOKENS]
    if not known:
        return CheckBlock.drawn(source.config)
    words = "the embedded calibration text" if text == "embedded" else f"the calibration part of {text}"
    return CheckBlock(torch.tensor([known]), words)


def _beginning(text: str) -> str:
    """The first ``CHARACTERS`` of its calibration part, no more of which is read."""
    found = ""
    for document in stream_documents(text, "calibration"):
        found += next(iter(document.chunks(CHARACTERS)), "") + "\n"
        if len(found) >= CHARACTERS:
            break
    return found
