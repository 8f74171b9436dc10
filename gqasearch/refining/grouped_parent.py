"""The parent with grouped attention weights that gradients flow to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from gqasearch.grouping import LayerGrouping
from gqasearch.models import LayerWeights, Parent
from gqasearch.models.row_sizes import rows_of_tied
from gqasearch.refining.layer_site import compute_dtype
from gqasearch.separate_grouping import AnyGrouping, AnyLayer

# The tensors of a layer that are trained, by their names in LayerWeights.
TRAINED = ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias")


# Those that are not.
CONSTANT = ("sinks", "q_rows", "k_rows", "q_gain", "k_gain", "q_norms", "k_norms", "q_shift", "k_shift", "centred")


class TrainedLayer(torch.nn.Module):
    """One layer's attention weights as parameters, named as in ``LayerWeights``: k and v (G, ...).

    ``layer``: which heads share. ``device``: where they are, if not where ``weights`` are.
    """

    def __init__(
        self, weights: LayerWeights, layer: AnyLayer, dtype: torch.dtype, device: torch.device | None = None
    ) -> None:
        super().__init__()
        for heads, partition in ((weights.k, layer.keys), (weights.v, layer.values)):
            if len(heads) != partition.num_groups:
                raise ValueError(f"{len(heads)} KV heads for {partition.num_groups} groups")
        self.layer = layer
        for name in TRAINED:
            tensor: Tensor | None = getattr(weights, name)
            copied = None if tensor is None else torch.nn.Parameter(tensor.detach().to(device, dtype, copy=True))
            self.register_parameter(name, copied)
        self._constants: dict[str, Any] = {
            "rotary_dim": weights.rotary_dim,
            "q_norm": weights.q_norm,
            "k_norm": weights.k_norm,
            "score_scale": weights.score_scale,
            **{name: getattr(weights, name) for name in CONSTANT},
        }

    def weights(self) -> LayerWeights:
        """k and v (G, ...), the parameters themselves."""
        return LayerWeights(**{name: getattr(self, name) for name in TRAINED}, **self._constants)

    def tied(self) -> LayerWeights:
        """As ``tie_heads``, (H, ...): the gradient of a group's K is the sum of its heads'."""
        grouped = self.weights()
        shared: dict[str, Any] = {
            name: None if (tensor := getattr(grouped, name)) is None else self._repeated(tensor, partition)
            for partition, names in ((self.layer.keys, ("k", "k_bias")), (self.layer.values, ("v", "v_bias")))
            for name in names
        }
        if grouped.k_norms is not None:
            shared["k_norms"] = self._repeated(grouped.k_norms, self.layer.keys)
        if grouped.k_rows is not None:
            shared["k_rows"] = rows_of_tied(grouped.k_rows, self.layer.keys)
        return replace(grouped, **shared)

    def _repeated(self, tensor: Tensor, partition: LayerGrouping) -> Tensor:
        # Indexing gives the same numbers, but on several threads its gradients are summed in any order.
        groups = tensor.unbind(0)
        return torch.stack([groups[label] for label in partition.labels])


class GroupedParent(torch.nn.Module):
    """Computes what the parent does with every layer's heads tied, as a function of the grouped weights.

    ``layers``: index -> weights with k and v (G, ...), as merges and refinements give them; a layer that is not
    there is the parent's own, and nothing may share in it. Attention weights of all layers are parameters, in
    float32 or the parent's dtype if wider; with ``whole`` all others are too (``rest``). They are cast to the parent's
    dtype as the model runs.

    The model's code is the parent's own, called with other tensors: neither its weights nor its mode (no dropout)
    change, and it can be the teacher at the same time. Moving this module moves its parameters alone: the parent
    must be on the same device. Gradient checkpointing would read the parent's weights as it computes anew, and is
    off in a parent's mode.
    """

    def __init__(
        self, parent: Parent, grouping: AnyGrouping, layers: Mapping[int, LayerWeights], *, whole: bool = False
    ) -> None:
        super().__init__()
        self.parent, self.grouping = parent, grouping
        dtype = compute_dtype(parent)
        partitions: Sequence[AnyLayer] = grouping.layers
        self.layers = torch.nn.ModuleList(
            TrainedLayer(layers[i] if i in layers else parent.layer(i), layer, dtype, parent.layer_device(i))
            for i, layer in enumerate(partitions)
        )
        others = self._others() if whole else {}
        # A parameter's name may hold no dot.
        self.rest = torch.nn.ParameterDict(
            {name.replace(".", "/"): tensor.to(dtype, copy=True) for name, tensor in others.items()}
        )

    def _others(self) -> dict[str, Tensor]:
        """The model's parameters that are no attention weights, by name; tied ones once."""
        written = {
            name
            for index in range(len(self.grouping))
            for name in self.parent.family.layer_tensors(index, self.parent.config).values()
        }
        names = (name for name, _ in self.parent.model.named_parameters())
        return {name: self.parent.parameter(name) for name in names if name not in written}

    def source_shaped(self, index: int) -> LayerWeights:
        """The weights that layer ``index`` is run with, k and v (H, ...), with their graph."""
        return self._trained(index).tied()

    def layer(self, index: int) -> LayerWeights:
        """The layer as it is written: k and v (G, ...), detached, not copied."""
        found = self._trained(index).weights()
        tensors = {name: tensor for name in TRAINED if (tensor := getattr(found, name)) is not None}
        return replace(found, **{name: tensor.detach() for name, tensor in tensors.items()})

    def rest_tensors(self) -> dict[str, Tensor]:
        """Checkpoint name -> tensor of everything else that was trained, detached; empty without ``whole``."""
        return {name.replace("/", "."): tensor.detach() for name, tensor in self.rest.items()}

    def _trained(self, index: int) -> TrainedLayer:
        layer = self.layers[index]
        if not isinstance(layer, TrainedLayer):
            raise TypeError(f"layer {index} is a {type(layer).__name__}")
        return layer

    def _tensors(self) -> dict[str, Tensor]:
        """Every parameter of the model: constants, and those that are trained, in the model's own dtypes."""
        tensors = {name: self.parent.parameter(name) for name, _ in self.parent.model.named_parameters()}
        trained = {name.replace("/", "."): tensor for name, tensor in self.rest.items()}
        for index in range(len(self.grouping)):
            trained |= self.parent.family.write_layer(self.source_shaped(index), index)
        return tensors | {name: tensor.to(tensors[name].dtype) for name, tensor in trained.items()}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool = False,
    ) -> Any:
        """What the parent's class gives: ``.logits`` (B, T, V), and ``.loss`` where there are ``labels`` (B, T)."""
        options = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": use_cache}
        if labels is not None:
            options["labels"] = labels
        return functional_call(self.parent.model, self._tensors(), (), options)
