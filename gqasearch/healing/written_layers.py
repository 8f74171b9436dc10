"""A converted checkpoint's attention weights in the order of the source's heads, and back into the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gqasearch.checkpoints import Layout, plan_checkpoint
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.healing.progressive import ProgressiveParent
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import Config, LayerWeights, Parent

LAYOUT_OF: dict[str, LayoutChoice] = {"DeciLM": "deci", "Ragged": "ragged", "MiMo": "mimo", "AnyModel": "anymodel"}


@dataclass(frozen=True)
class WrittenLayers:
    """The layers of ``model``, a conversion of ``parent`` by ``grouping`` that lies in ``layout``."""

    model: nn.Module
    parent: Parent
    grouping: Grouping
    layout: Layout

    @classmethod
    def of(cls, model: nn.Module, config: Config, parent: Parent, grouping: Grouping) -> WrittenLayers:
        """``config``: of the checkpoint. Raises ``UserError`` for a source that is written as another family."""
        if parent.family.written_as(parent.config)[0] is not parent.family:
            raise UserError(
                f"a converted {parent.family.name} is written as another family, whose heads cannot be moved from the "
                "parent's own: leave progressive out"
            )
        if parent.layer(0).k_rows is not None:
            raise UserError(
                f"a {parent.family.name} has a norm over the keys of all heads, under which heads cannot be moved "
                "apart: leave progressive out"
            )
        if parent.layer(0).k_norms is not None:
            raise UserError(
                f"every head of this {parent.family.name} has a norm of its own, which no head of a group has: heads "
                "cannot be moved by and by: leave progressive out"
            )
        architecture = str(config["architectures"][0])
        choice: LayoutChoice = next(
            (layout for name, layout in LAYOUT_OF.items() if architecture.startswith(name)), "stock"
        )
        return cls(model, parent, grouping, plan_checkpoint(parent.family, parent.config, grouping, choice))

    def read(self) -> dict[int, LayerWeights]:
        """Every layer, q and o (Hq, ...) in the source's order, k and v (G, ...) in the grouping's; copies."""
        return {index: self._read(index) for index in range(len(self.grouping))}

    def write(self, layers: Mapping[int, LayerWeights], rest: Mapping[str, Tensor]) -> None:
        """Set the model's weights to these layers, and the parameters named in ``rest``."""
        tensors = dict(rest)
        for index, layer in layers.items():
            tensors |= self.parent.family.write_layer(self.layout.lay_out(layer, index), index)
        with torch.no_grad():
            for name, tensor in tensors.items():
                self.model.get_parameter(name).copy_(tensor)

    def _read(self, index: int) -> LayerWeights:
        own, slots = self.parent.layer(index), self.layout.slots[index]
        placed = self._placed(index, len(slots), self.layout.kv_heads_per_layer[index])
        slot_of = torch.tensor([slots.index(query) for query in range(own.q.shape[0])])
        order = self.layout.groups[index] if self.layout.groups else range(self.layout.kv_heads_per_layer[index])
        head_of = torch.tensor([list(order).index(group) for group in range(len(order))])
        places = {"q": slot_of, "o": slot_of, "q_bias": slot_of}
        found: dict[str, Any] = {
            role: tensor.detach()[places.get(role, head_of)].clone() for role, tensor in placed.items()
        }
        return replace(own, **found)

    def _placed(self, index: int, slots: int, groups: int) -> dict[str, Tensor]:
        """One layer's tensors by head as they lie, named as in ``LayerWeights``."""
        family, d = self.parent.family, self.parent.geometry.head_dim
        got: dict[str, Tensor] = {}
        for role, name in family.layer_tensors(index, self.parent.config).items():
            tensor = self.model.get_parameter(name)
            got[role] = tensor.T if tensor.dim() == 2 and family.stores_transposed else tensor
        found = {"o": got["o.weight"].unflatten(1, (slots, d)).transpose(0, 1)}
        return found | {
            role.replace(".bias", "_bias").removesuffix(".weight"): of
            for role, of in self._by_head(got, slots, groups).items()
        }

    def _by_head(self, got: Mapping[str, Tensor], slots: int, groups: int) -> dict[str, Tensor]:
        """Stored tensors to heads, q, k, v ``.weight`` (heads, d, D) and ``.bias`` (heads, d).

        What the family stores together lies as its queries, keys, values where they are not as many of each.
        """
        family, shape = self.parent.family, self.parent.geometry
        if "qkv.weight" not in got or slots == groups:
            return family.split_heads(got, replace(shape, num_attention_heads=slots, num_kv_heads=groups))
        return {
            f"{role}.{kind}": heads
            for kind in ("weight", "bias")
            if (fused := got.get(f"qkv.{kind}")) is not None
            for role, heads in zip(
                "qkv", fused.unflatten(0, (-1, shape.head_dim)).split((slots, groups, groups)), strict=True
            )
        }


@dataclass(frozen=True)
class ProgressiveStudent:
    """The parent on its way to a converted checkpoint, and that checkpoint."""

    checkpoint: WrittenLayers
    module: ProgressiveParent

    @classmethod
    def of(cls, checkpoint: WrittenLayers, *, whole: bool) -> ProgressiveStudent:
        """``whole``: train all parameters, not those of attention alone."""
        layers = checkpoint.read()
        return cls(checkpoint, ProgressiveParent(checkpoint.parent, checkpoint.grouping, layers, whole=whole))

    def arrived(self) -> nn.Module:
        """The checkpoint's model with what was trained."""
        module, layers = self.module, range(len(self.checkpoint.grouping))
        self.checkpoint.write({index: module.layer(index) for index in layers}, module.rest_tensors())
        return self.checkpoint.model
