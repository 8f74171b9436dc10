"""The three texts of a run, cut into token blocks; they never overlap."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

from transformers import PreTrainedTokenizerBase

from gqasearch.calibration import FilePart, TokenBlocks, make_blocks, shortage, stream_documents, stream_whole
from gqasearch.config import RunConfig
from gqasearch.embedded import Document, Split
from gqasearch.errors import UserError
from gqasearch.models import ModelSource
from gqasearch.steps.model_kinds import masked_share

# Characters of a segment of a .txt for each token of a block: about eight blocks of it.
PER_TOKEN = 32

log = logging.getLogger(__name__)


def wanted_tokens(config: RunConfig, split: Split) -> int:
    """How many tokens of a text were asked for."""
    wanted: dict[Split, int] = {
        "calibration": config.calibration_tokens,
        "search": config.search_tokens,
        "evaluation": config.evaluation_tokens,
    }
    return wanted[split]


def cut_text(config: RunConfig, source: ModelSource, tokenizer: PreTrainedTokenizerBase, split: Split) -> TokenBlocks:
    """The blocks of one text, as many as were asked for and are there; a warning where these are fewer."""
    wanted = wanted_tokens(config, split)
    if split == "evaluation" and config.evaluation_part == "validation":
        return _validation(config, source, tokenizer)
    blocks = _first(config, source, tokenizer, split, wanted)
    if (words := shortage(blocks, wanted)) is not None:
        log.warning("warning: %s", words)
    return blocks


def _first(
    config: RunConfig, source: ModelSource, tokenizer: PreTrainedTokenizerBase, split: Split, tokens: int
) -> TokenBlocks:
    """The first ``tokens`` of one text."""
    documents, words = _documents(config, split)
    named = list(islice(documents, 20))
    told = f"{words}: {', '.join(dict.fromkeys(document.name for document in named))}"
    family = source.family
    return make_blocks(
        *(chain(named, documents), tokenizer, config.block_length, tokens, told, family.objective),
        vocabulary=family.vocabulary(source.config),
        short_length=family.short_length(source.config),
        masked_blocks=masked_share(family.objective, split, config.masked_blocks),
    )


def _validation(config: RunConfig, source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> TokenBlocks:
    """The last blocks of the search text, which no search sees: it takes the first ones."""
    whole = _first(config, source, tokenizer, "search", sys.maxsize)
    searched, found = whole.first(config.search_tokens), whole.last(config.evaluation_tokens)
    if len(searched.ids) + len(found.ids) > len(whole.ids):
        raise UserError(
            f"the search part of {config.calibration_text} has {whole.tokens} tokens, too few for "
            f"{config.search_tokens} to search on and {config.evaluation_tokens} for validation"
        )
    return replace(found, source=f"the end, for validation, of {whole.source}")


def _documents(config: RunConfig, split: Split) -> tuple[Iterator[Document | FilePart], str]:
    """The documents of one purpose, and the text they are of in words."""
    text, other = config.calibration_text, config.evaluation_text
    if split == "evaluation" and other is not None:
        return iter(stream_whole(other)), f"{other}, whole"
    return iter(stream_documents(text, split, PER_TOKEN * config.block_length)), f"{text}, {split} part"
