"""The text in two streams, the parent's and the converted model's, moved upwards a layer at a time.

Up to the first grouped layer the two are one. While a layer is refined four values per token and hidden
dimension are kept, in memory or in files: both streams, what its attention reads and what it should add.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gqasearch.calibration import Ascent, TensorFiles, TokenBlocks
from gqasearch.calibration.hidden_states import ROOM
from gqasearch.models import (
    LayerWeights,
    Parent,
    layers_replaced,
    output_projection,
    outputs_noted,
    quick_products,
    run_rounded_layer,
    wanted_of_attention,
)
from gqasearch.refining.layer_site import AttentionCall, LayerSite, StoredCalls, compute_dtype, with_floats
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyLayer


class _Reached(Exception):  # noqa: N818 - no error: it ends a forward pass that has gone far enough
    """The attention module was called."""


class Streams:
    """Hidden states before the layer that is next; no gradients. ``batch_blocks``: blocks per forward pass.

    ``folder``: where hidden states lie that do not fit into memory; a temporary one if not given. ``kv``: how the
    converted model's cache is rounded, in all of its layers; None for not.
    """

    def __init__(
        self,
        parent: Parent,
        blocks: TokenBlocks,
        batch_blocks: int,
        folder: Path | None = None,
        kv: KVFormat | None = None,
    ) -> None:
        self.parent, self.kv = parent, kv
        self._folder = folder or Path(tempfile.mkdtemp(prefix="gqasearch-streams-"))
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._one = kv is None  # while no layer is converted, both streams are the parent's
        self.original = Ascent(parent, blocks, batch_blocks, self._folder / "parent")
        self.converted = self.original.beside(self._folder / "converted")
        # What attention has to add for the parent's stream, at the layer that the parent's passed last.
        self._wanted = self._wanted_files(parent.device)

    def resume(self, most: int, first_grouped: int) -> None:
        """Go on from where an earlier process with the same ``folder`` left both streams, ``most`` layers up or fewer.

        ``first_grouped``: the lowest layer in which heads share.
        """
        self.original.resume(most)
        self._one = self.original.level <= first_grouped and self.kv is None
        if self._one:
            self.converted.follow(self.original)
        else:
            self.converted.resume(self.original.level)
        if self.converted.level != self.original.level:
            raise ValueError(f"the streams in {self._folder} are at different layers")

    @property
    def level(self) -> int:
        """The layer that the converted stream is next to pass."""
        return self.converted.level

    def advance_parent(self, index: int) -> None:
        """Move the parent's stream past layer ``index``."""
        dtype = compute_dtype(self.parent)
        self._wanted.remove()
        self._wanted = self._wanted_files(self.parent.layer_device(index))
        others = iter(self.converted.hidden)
        with outputs_noted(output_projection(self.parent, index)) as added:

            def run(batch: int, hidden: Tensor) -> Tensor:
                behind = hidden.to(dtype) - next(others).to(hidden.device, dtype)
                risen = self.original.call(batch, hidden)
                attended = added.pop().to(dtype)
                self._wanted.append(wanted_of_attention(self.parent, index, behind.to(attended.device), attended))
                return risen

            self.original.advance(run)

    def site(self, index: int, layer: AnyLayer, room: int = ROOM) -> LayerSite:
        """Layer ``index``, which the parent's stream has passed last and the converted one has yet to pass.

        ``room``: bytes of its calls that are kept in memory. They are there until they are removed.
        """
        calls = StoredCalls(self._folder / f"layer-{index}", self.parent.layer_device(index), room)
        with self._attention_reached(index) as reach:
            for batch, (hidden, wanted) in enumerate(zip(self.converted.hidden, self._wanted, strict=True)):
                calls.append(reach(batch, hidden, wanted))
        return LayerSite.at(self.parent, index, layer, calls, self.kv)

    @contextmanager
    def _attention_reached(self, index: int) -> Iterator[Callable[[int, Tensor, Tensor], AttentionCall]]:
        """Gives what runs a layer up to its attention module, and notes how that is called."""
        attention = self.parent.model.get_submodule(self.parent.family.attention_path(index))
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append((args, kwargs))
            raise _Reached  # what follows in the layer is not needed

        def reach(batch: int, hidden: Tensor, wanted: Tensor) -> AttentionCall:
            with suppress(_Reached):
                self.converted.call(batch, hidden)
            args, kwargs = with_floats(seen.pop(), compute_dtype(self.parent))
            return AttentionCall(args, kwargs, wanted, self.converted.batches[batch].mask.to(wanted.device))

        handle = attention.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield reach
        finally:
            handle.remove()

    def advance_converted(self, index: int, layer: LayerWeights | None) -> None:
        """Move the converted stream past layer ``index``, where the parent's is already.

        ``layer``: the layer's tied weights; None for the parent's own.
        """
        self._one = self._one and layer is None
        if self._one:
            self.converted.follow(self.original)
        else:
            with layers_replaced(self.parent, {} if layer is None else {index: layer}):
                kv = self.kv
                self.converted.advance(None if kv is None else partial(self._rounded, kv))
        self.original.forget_below()
        self.converted.forget_below()

    def _rounded(self, kv: KVFormat, batch: int, hidden: Tensor) -> Tensor:
        """The layer that is next on one batch, with a rounded cache."""
        index = self.converted.level
        arguments = self.converted.batches[batch].arguments[index]
        with quick_products(self.parent):
            return run_rounded_layer(self.parent, index, hidden, arguments, kv)

    def _wanted_files(self, device: torch.device) -> TensorFiles:
        return TensorFiles(self._folder / "next", device=device)
