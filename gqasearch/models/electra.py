"""ELECTRA's generators (arXiv 2003.10555)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.bert import Bert


@dataclass(frozen=True)
class Electra(Bert):
    """BERT's layers; embeddings may be narrower than the stream."""

    name: ClassVar[str] = "electra"
    architectures: ClassVar[tuple[str, ...]] = ("ElectraForMaskedLM",)
    encoder: ClassVar[str] = "electra.encoder"
