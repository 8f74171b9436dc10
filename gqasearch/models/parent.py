"""The parent: the unconverted model, its tokenizer and where its heads are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gqasearch.models.families import family_of
from gqasearch.models.family import Config, Family
from gqasearch.models.freed_memory import keep_freed_memory
from gqasearch.models.identity import identity_of
from gqasearch.models.layer import HeadGeometry, LayerWeights
from gqasearch.models.loading import load_tokenizer
from gqasearch.models.loading_on_demand import load_model_within
from gqasearch.models.on_demand import OnDemand, device_of, on_demand
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
        return device_of(self.model)

    def layer_device(self, index: int) -> torch.device:
        """Where layer ``index`` computes, of a model whose layers are spread over several devices."""
        return self.device if self.weights is None else self.weights.device_of(self._decoder_layer(index))

    @property
    def weights(self) -> OnDemand | None:
        """What reads the weights when they are needed; None where all are in memory."""
        return on_demand(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of the source's weights, as stored."""
        if self.directory is not None:
            return fingerprint(CheckpointTensors(self.directory))
        return fingerprint(self.model.state_dict())

    @cached_property
    def identity(self) -> str:
        """``identity_of`` the source."""
        return identity_of(self.fingerprint, self.config)

    def layer(self, index: int) -> LayerWeights:
        """One layer's attention weights by head, sharing memory with the model."""

        def read(name: str) -> Tensor:
            return self.parameter(name)

        return self.family.read_layer(read, index, self.config)

    def parameter(self, name: str) -> Tensor:
        """A parameter of the model, read from its file where it is not in memory."""
        if self.weights is not None and self.weights.has(name):
            return self.weights.read(name)
        return self.model.get_parameter(name).detach()

    @contextmanager
    def layer_loaded(self, index: int) -> Iterator[None]:
        """Within the block the weights of decoder layer ``index`` stay in memory, however often it is called."""
        layer = self._decoder_layer(index)
        with self.module_loaded(layer):
            if self.weights is not None:
                self.weights.load(layer)
            yield

    def _decoder_layer(self, index: int) -> torch.nn.Module:
        # Not the model's list of layers: some of them may not be counted (Llama 3.2 Vision).
        return self.model.get_submodule(self.family.layer_path(index))

    def module_loaded(self, module: torch.nn.Module) -> AbstractContextManager[None]:
        """The same of a decoder layer, the embeddings or the output head."""
        return nullcontext() if self.weights is None else self.weights.held(module)

    @classmethod
    def from_model(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> Parent:
        """A parent around a model in memory."""
        config = copy.deepcopy(model.config.to_dict())
        config.setdefault("architectures", None)
        config["architectures"] = config["architectures"] or [type(model).__name__]
        return cls(type(model).__name__, model.eval(), config, family_of(config), tokenizer)


def load_parent(
    model: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    room: int | None = None,
) -> Parent:
    """Load ``model``: ``embedded``, a checkpoint folder, a GGUF file, or a hub id. No pickles, no remote code.

    ``room``: bytes of weights that may stay in memory; see ``load_model_within``.
    Raises ``UserError`` for a missing folder, an unsupported architecture, damaged or non-finite weights.
    """
    source = resolve_model(model, revision)
    config, family = source.config, source.family
    family.geometry(config)
    source.tensors  # noqa: B018 - for its errors: they come before a large model is read
    keep_freed_memory()
    return Parent(
        id=model,
        model=load_model_within(source.directory, dtype, device, room=room),
        config=config,
        family=family,
        tokenizer=load_tokenizer(source.directory),
        directory=source.directory,
        revision=source.revision,
    )
