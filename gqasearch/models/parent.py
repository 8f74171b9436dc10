"""The parent: the unconverted model, its tokenizer and where its heads are."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family
from gqasearch.models.layer import HeadGeometry, LayerWeights
from gqasearch.models.registry import family_of, read_config
from gqasearch.models.source import resolve_model
from gqasearch.models.tensors import CheckpointTensors, fingerprint


@dataclass(frozen=True)
class Parent:
    """A loaded source model. ``directory`` is None for models made in memory (tests)."""

    id: str
    model: PreTrainedModel
    config: Config
    family: Family
    tokenizer: PreTrainedTokenizerBase | None = None
    directory: Path | None = None
    revision: str = ""

    @property
    def geometry(self) -> HeadGeometry:
        return self.family.geometry(self.config)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of the source's weights, as stored."""
        if self.directory is not None:
            return fingerprint(CheckpointTensors(self.directory))
        return fingerprint(self.model.state_dict())

    def layer(self, index: int) -> LayerWeights:
        """One layer's attention weights by head, sharing memory with the model."""

        def read(name: str) -> Tensor:
            return self.model.get_parameter(name).detach()

        return self.family.read_layer(read, index, self.config)

    @classmethod
    def from_model(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> Parent:
        """A parent around a model in memory."""
        config = copy.deepcopy(model.config.to_dict())
        config.setdefault("architectures", None)
        config["architectures"] = config["architectures"] or [type(model).__name__]
        return cls(type(model).__name__, model.eval(), config, family_of(config), tokenizer)


def load_parent(
    model: str, *, revision: str | None = None, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Parent:
    """Load ``model``: ``embedded``, a checkpoint folder, or a hub id. Safetensors only, no remote code.

    Raises ``UserError`` for a missing folder, an unsupported architecture, damaged or non-finite weights.
    """
    source = resolve_model(model, revision)
    config = read_config(source.directory)
    family = family_of(config)
    family.geometry(config)
    CheckpointTensors(source.directory).names_in(CheckpointTensors(source.directory).shards[0])
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source.directory, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # transformers and safetensors raise many kinds; the user needs the file
        raise UserError(f"cannot load {source.directory}: {error}") from error
    _refuse_non_finite(loaded, source.directory)
    return Parent(
        id=model,
        model=loaded.to(device).eval(),
        config=config,
        family=family,
        tokenizer=_load_tokenizer(source.directory),
        directory=source.directory,
        revision=source.revision,
    )


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise UserError(f"cannot load the tokenizer in {directory}: {error}") from error
    checked: PreTrainedTokenizerBase = tokenizer
    return checked


def _refuse_non_finite(model: PreTrainedModel, directory: Path) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise UserError(f"{directory}: tensor {name} holds NaN or infinite values; the checkpoint is unusable")
