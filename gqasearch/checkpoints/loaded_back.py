"""A converted checkpoint is loaded back and held against what was computed, before it gets its name.

What was computed: the parent, as transformers loads it, with the layers that the merge and the refinement made, in the
dtype they are stored in, every source head with a copy of its group's keys and values. It has the parent's shape, so
nothing that the layout does is in it: no reordered or added heads, no other ``config.json``, no other modelling code.
Both run in float32 on one block, so they differ by the rounding of float32 alone; of a source whose norms move into
projections (``WrittenAsPhi``), also by the rounding of those to the stored dtype.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from gqasearch.checkpoints.conversion import cast, convertible
from gqasearch.checkpoints.remote_code import runs_own_code
from gqasearch.errors import UserError
from gqasearch.models import CheckpointTensors, Config, Family, LayerWeights, prediction_of, tie_heads
from gqasearch.models.family import text_of
from gqasearch.models.loading_on_demand import load_on_demand
from gqasearch.models.on_demand import replace_weights
from gqasearch.models.written_as_phi import WrittenAsPhi
from gqasearch.separate_grouping import AnyGrouping

MOST_TOKENS = 128
# Largest difference of logits, over the largest logit. The rounding of float32 makes some 1e-6 of it, 1e-5 where sums
# are long; a wrong head, norm, bias or RoPE 1e-2 and more.
ALLOWED = 2e-4
# The same, for weights that were rounded, in units of their dtype's rounding.
ALLOWED_ROUNDINGS = 8.0


@dataclass(frozen=True)
class CheckBlock:
    """What both models run on: ``ids`` (1, T); ``words``: what they are of; ``compared``: what the models give."""

    ids: Tensor
    words: str
    compared: str = "logits"

    @classmethod
    def drawn(cls, config: Config) -> CheckBlock:
        """Of a model without a tokenizer: tokens drawn evenly from its vocabulary."""
        drawn = torch.randint(
            int(text_of(config)["vocab_size"]), (1, MOST_TOKENS), generator=torch.Generator().manual_seed(0)
        )
        return cls(drawn, "drawn from the vocabulary, as there is no tokenizer")

    def fitting(self, family: Family, config: Config) -> CheckBlock:
        """As many tokens as the model can read."""
        compared = "hidden states" if family.objective == "hidden-states" else "logits"
        return CheckBlock(self.ids[:, : family.context_length(config) or None], self.words, compared)


@dataclass(frozen=True)
class LoadedBack:
    """How far a written checkpoint is from what was computed: largest difference of logits, and what is allowed."""

    difference: float
    allowed: float
    tokens: int
    words: str
    compared: str

    def __str__(self) -> str:
        return (
            f"Loaded back, its {self.compared} on {self.tokens} tokens ({self.words}) are those computed, to "
            f"{self.difference:.1e} (allowed {self.allowed:.1e})."
        )


class Computed:
    """Layers as they were computed, a file each: no more than one is in memory.

    ``family``, ``config``: of the source.
    """

    def __init__(self, source: CheckpointTensors, family: Family, config: Config, grouping: AnyGrouping) -> None:
        self._source, self._family, self._config, self._grouping = source, family, config, grouping
        self._folder = Path()
        self._reader_of: dict[str, Callable[[str], Tensor]] = {}

    @contextmanager
    def kept_in(self, folder: Path) -> Iterator[None]:
        """Within the block layers are kept in ``folder``, which is made and removed."""
        folder.mkdir()
        self._folder = folder
        yield
        shutil.rmtree(folder)  # on an error it goes with all that was written

    def noting(self, merged_layer: Callable[[int], LayerWeights]) -> Callable[[int], LayerWeights]:
        """The same function; what it gives is kept."""

        def noted(layer: int) -> LayerWeights:
            self._require_round_trip(layer)
            merged = merged_layer(layer)
            self._keep(layer, merged)
            return merged

        return noted

    def parent(self) -> PreTrainedModel:
        """The source with these layers."""
        model = load_on_demand(self._source.directory, torch.float32, "cpu", room=0)
        replace_weights(model, self._reader_of)
        return model

    def rounding(self) -> float:
        """Of the stored dtype, relative, where it is in the difference; 0 where the layers are rounded here too."""
        if not self._is_folded:
            return 0.0
        dtypes = {convertible(name, self._source.stored(name).dtype) for name in map(self._stored, self._reader_of)}
        return max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)

    @property
    def _is_folded(self) -> bool:
        """Whether what is stored is rounded after norms moved into it."""
        return isinstance(self._family, WrittenAsPhi) and self._family.phi_origins(self._config).folds

    def _keep(self, layer: int, merged: LayerWeights) -> None:
        queries = self._family.geometry(self._config).queries_per_kv
        tensors = self._family.write_layer(tie_heads(merged, self._grouping.layers[layer], queries), layer)
        if not self._is_folded:
            tensors = {name: cast(tensor, self._dtype(name), name) for name, tensor in tensors.items()}
        path = self._folder / f"{layer}.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
        self._reader_of |= dict.fromkeys(tensors, partial(_read, path))

    def _require_round_trip(self, layer: int) -> None:
        """The heads of a layer must lie where they are read: both models are written by one ``write_layer``."""

        def read(name: str) -> Tensor:
            return self._source.read(self._stored(name))

        weights = self._family.read_layer(read, layer, self._config)
        for name, tensor in self._family.write_layer(weights, layer).items():
            if not torch.equal(tensor.nan_to_num(), read(name).nan_to_num()):  # NaN, refused elsewhere, equals nothing
                raise UserError(f"{name} of {self._source.directory} is not written as it is read")

    def _stored(self, name: str) -> str:
        return self._family.stored_name(name, self._source.shard_of)

    def _dtype(self, name: str) -> torch.dtype:
        return convertible(name, self._source.stored(self._stored(name)).dtype)


def check_loaded_back(folder: Path, layout: str, computed: Computed, block: CheckBlock) -> LoadedBack:
    """Run the checkpoint in ``folder`` and what was ``computed`` on ``block``.

    Raises ``UserError`` where they differ by more than rounding, or the checkpoint cannot be loaded. Of each model no
    more is in memory than the module that runs.
    """
    trusted = runs_own_code(folder)
    wanted = logits(computed.parent(), block)
    found = logits_of_folder(folder, trusted, block)
    largest = float(wanted.abs().max())
    allowed = largest * max(ALLOWED, ALLOWED_ROUNDINGS * computed.rounding())
    return compare(found, wanted, layout, allowed, block)


def logits_of_folder(folder: Path, trusted: bool, block: CheckBlock) -> Tensor:
    """(1, T, V) of the checkpoint in ``folder``; raises ``UserError`` where it cannot be loaded or run."""
    try:
        return logits(load_on_demand(folder, torch.float32, "cpu", room=0, trust_remote_code=trusted), block)
    except Exception as error:  # whatever transformers, or the model's code, makes of a file that is wrong
        raise UserError(f"the checkpoint that was written does not load and run: {error}. It was removed") from error


def compare(found: Tensor, wanted: Tensor, layout: str, allowed: float, block: CheckBlock) -> LoadedBack:
    """Hold logits (1, T, V) against each other; raises ``UserError`` where they differ by more than ``allowed``."""
    same_shape = found.shape == wanted.shape
    difference = float((found - wanted).abs().max()) if same_shape else float("inf")
    if not difference <= allowed:  # NaN is refused too
        raise UserError(
            f"the checkpoint that was written (layout {layout}) does not compute what it was converted to: loaded "
            f"back, its {block.compared} on {block.ids.shape[1]} tokens ({block.words}) differ by up to "
            f"{difference:.3g}, allowed are {allowed:.3g}. It was removed; please report this fault of gqasearch or "
            "transformers"
        )
    return LoadedBack(difference, allowed, block.ids.shape[1], block.words, block.compared)


def logits(model: nn.Module, block: CheckBlock, run: Callable[..., Any] | None = None) -> Tensor:
    """(1, T, V) float32, on the CPU; of a model without a head its hidden states (1, T, D).

    ``run``: the model's ``forward``, if it is not to be called itself.
    """
    ids = block.ids.to(next((p.device for p in model.parameters() if p.device.type != "meta"), "cpu"))
    with torch.no_grad():
        out = (run or model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return prediction_of(out).float().cpu()


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor
