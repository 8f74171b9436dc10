"""RoBERTa (arXiv 1907.11692) and XLM-RoBERTa (arXiv 1911.02116)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.bert import Bert
from gqasearch.models.family import Config

DEFAULT_PAD = 1  # of transformers, where config.json names none


@dataclass(frozen=True)
class Roberta(Bert):
    """BERT's network under other names; positions count from the padding token's id + 1."""

    name: ClassVar[str] = "roberta"
    architectures: ClassVar[tuple[str, ...]] = ("RobertaForMaskedLM", "XLMRobertaForMaskedLM")
    encoder: ClassVar[str] = "roberta.encoder"

    def context_length(self, config: Config) -> int | None:
        limit, pad = super().context_length(config), config.get("pad_token_id")
        return None if limit is None else limit - 1 - int(DEFAULT_PAD if pad is None else pad)
