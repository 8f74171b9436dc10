"""BERT (arXiv 1810.04805): an encoder, post-norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family, Objective
from gqasearch.models.layer import HeadGeometry


@dataclass(frozen=True)
class Bert(Family):
    """Every token attends to all others. No RoPE: positions are learned and added to the embeddings. Biases.

    Post-norm: a layer's input is what attention reads and also the residual stream, and attention's module goes on
    after W_o: it adds the stream and normalises.
    """

    name: ClassVar[str] = "bert"
    architectures: ClassVar[tuple[str, ...]] = ("BertForMaskedLM", "BertForPreTraining")
    objective: ClassVar[Objective] = "masked"
    has_grouped_form: ClassVar[bool] = False
    projections: ClassVar[Mapping[str, str]] = {
        "q": "self.query",
        "k": "self.key",
        "v": "self.value",
        "o": "output.dense",
    }
    encoder: ClassVar[str] = "bert.encoder"

    def attention_path(self, layer: int) -> str:
        return f"{self.encoder}.layer.{layer}.attention"

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return ("q", "k", "v")

    def geometry(self, config: Config) -> HeadGeometry:
        refuse_variants(config, self.name)
        return replace(super().geometry(config), rotary_dim=0)


def refuse_variants(config: Config, model: str) -> None:
    """Raise ``UserError`` for encoders that are none, or that have positions other than learned ones."""
    for field in ("is_decoder", "add_cross_attention"):
        if config.get(field):
            raise UserError(f"this {model} model is a decoder ({field}); only encoders of this family are supported")
    kind = config.get("position_embedding_type") or "absolute"
    if kind != "absolute":
        raise UserError(
            f"this {model} model has position_embedding_type {kind}, which transformers 5 no longer computes; only "
            "absolute positions are supported"
        )
