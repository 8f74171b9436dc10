"""DistilBERT (arXiv 1910.01108)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models.bert import Bert
from gqasearch.models.family import Config
from gqasearch.models.layer import HeadGeometry

# Names of config.json -> those of every other family.
FIELDS = {"dim": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"}


@dataclass(frozen=True)
class DistilBert(Bert):
    """BERT's network under other names; the layer, not attention, adds the stream and normalises."""

    name: ClassVar[str] = "distilbert"
    architectures: ClassVar[tuple[str, ...]] = ("DistilBertForMaskedLM",)
    projections: ClassVar[Mapping[str, str]] = {"q": "q_lin", "k": "k_lin", "v": "v_lin", "o": "out_lin"}
    encoder: ClassVar[str] = "distilbert.transformer"

    def geometry(self, config: Config) -> HeadGeometry:
        return super().geometry({FIELDS.get(name, name): value for name, value in config.items()})
