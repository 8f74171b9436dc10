"""Encoders without a head, as sentence encoders are: what they give is the hidden states that leave the last layer.

Their checkpoints name tensors as the module without the first part of the names that models with a head give them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.bert import Bert
from gqasearch.models.distilbert import DistilBert
from gqasearch.models.electra import Electra
from gqasearch.models.family import Family, Objective
from gqasearch.models.roberta import Roberta


class Headless(Family):
    """Goes before a family of encoders. ``whole``: what a model with a head calls this one, which some files keep."""

    objective: ClassVar[Objective] = "hidden-states"
    whole: ClassVar[str]

    def other_names(self, name: str) -> tuple[str, ...]:
        return (f"{self.whole}.{name}",)


@dataclass(frozen=True)
class BertEncoder(Headless, Bert):
    """BERT without a head, as most sentence encoders: all-MiniLM, BGE, E5, GTE. Its pooler, if any, is left alone."""

    architectures: ClassVar[tuple[str, ...]] = ("BertModel",)
    encoder: ClassVar[str] = "encoder"
    whole: ClassVar[str] = "bert"


@dataclass(frozen=True)
class RobertaEncoder(Headless, Roberta):
    """RoBERTa and XLM-RoBERTa without a head."""

    architectures: ClassVar[tuple[str, ...]] = ("RobertaModel", "XLMRobertaModel")
    encoder: ClassVar[str] = "encoder"
    whole: ClassVar[str] = "roberta"


@dataclass(frozen=True)
class DistilBertEncoder(Headless, DistilBert):
    """DistilBERT without a head."""

    architectures: ClassVar[tuple[str, ...]] = ("DistilBertModel",)
    encoder: ClassVar[str] = "transformer"
    whole: ClassVar[str] = "distilbert"


@dataclass(frozen=True)
class ElectraEncoder(Headless, Electra):
    """ELECTRA without a head, a generator's or a discriminator's."""

    architectures: ClassVar[tuple[str, ...]] = ("ElectraModel",)
    encoder: ClassVar[str] = "encoder"
    whole: ClassVar[str] = "electra"
