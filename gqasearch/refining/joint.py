"""Joint: after every layer was fitted for itself, all of them together to what the parent predicts.

A layer's own target, the parent's residual stream, counts every direction alike. What the parent predicts depends on
few of them, and an error of one layer may make good that of another: neither shows before the model runs as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from gqasearch.calibration import Targets, TokenBlocks
from gqasearch.models import TOKENS, LayerWeights, Objective, Parent, quick_products
from gqasearch.refining._base import Counter
from gqasearch.refining.descent import BETAS, Descent, minibatches
from gqasearch.refining.grouped_parent import GroupedParent
from gqasearch.refining.layer_site import held_out, is_scarce
from gqasearch.refining.refined_layers import RefinedLayers
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyGrouping

COMPARED = 16  # batches that the loss is compared on before and after
# Ids and mask (B, T), and what is to be predicted there.
Batch: TypeAlias = tuple[tuple[Tensor, Tensor], Targets]


@dataclass(frozen=True)
class Joint(Descent):
    """``descent``, then ``joint_steps`` steps of Adam on the attention weights of all grouped layers at once.

    Their loss is the KL of the parent's predictions to those of the converted model, in nats per token of the
    calibration text; each step reads ``joint_blocks`` blocks of it, in an order made from ``seed``. ``joint_rate``: of
    each tensor relative to the standard deviation of its entries, falling to 0 along a line. All layers are in memory,
    with gradients: about 20 bytes for each of their attention weights, besides the model. ``validate``: where the
    text is short for the layers, the steps do not see a quarter of it, which decides whether they are kept.
    """

    name: ClassVar[str] = "joint"
    reference: ClassVar[str] = "https://arxiv.org/abs/1503.02531"
    objectives: ClassVar[tuple[Objective, ...]] = TOKENS
    summary: ClassVar[str] = "descent, then Adam on all layers' attention together, to the parent's predictions"

    joint_steps: int = 200
    joint_rate: float = 0.003
    joint_blocks: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("joint_steps", "joint_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.joint_rate < float("inf"):
            raise ValueError(f"joint_rate must be above 0, got {self.joint_rate}")

    def total_steps(self, grouping: AnyGrouping, kv: KVFormat | None = None) -> int:
        layerwise = super().total_steps(grouping, kv)
        return layerwise + self.joint_steps if layerwise else 0

    def finish(
        self,
        parent: Parent,
        grouping: AnyGrouping,
        layers: Mapping[int, LayerWeights],
        blocks: TokenBlocks,
        folder: Path,
        counter: Counter,
    ) -> Mapping[int, LayerWeights]:
        joined = RefinedLayers(folder / "joint")
        if set(joined) < set(layers):
            for index, layer in self.join(parent, grouping, layers, blocks, counter.step).items():
                joined.put(index, layer)
        return joined

    def join(
        self,
        parent: Parent,
        grouping: AnyGrouping,
        layers: Mapping[int, LayerWeights],
        blocks: TokenBlocks,
        step: Callable[[], None],
    ) -> Mapping[int, LayerWeights]:
        """The joint steps alone, from ``layers`` (k, v (G, ...)); ``layers`` where the loss did not fall."""
        with _whole(parent):
            model = GroupedParent(parent, grouping, layers)
            for index, layer in enumerate(model.layers):
                layer.requires_grad_(index in layers)
            fitted = [tensor for tensor in model.parameters() if tensor.requires_grad]
            rates = [self.joint_rate * float(tensor.detach().std(correction=0)) for tensor in fitted]
            groups = [{"params": [tensor], "lr": rate} for tensor, rate in zip(fitted, rates, strict=True)]
            optimizer = torch.optim.Adam(groups, betas=BETAS, fused=True)
            batches = [*zip(blocks.batches(self.joint_blocks), blocks.targets(self.joint_blocks), strict=True)]
            held = held_out(len(batches)) if self.validate and is_scarce(blocks.tokens, parent.geometry) else []
            seen = [index for index in range(len(batches)) if index not in held]
            compared = held or range(len(batches))
            some = [batches[index] for index in compared[:: max(1, len(compared) // COMPARED)]]
            before = mean_loss(model, some)
            for done, place in enumerate(minibatches(len(seen), self.joint_steps, self.seed)):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 - done / self.joint_steps)
                (ids, mask), targets = batches[seen[place]]
                with torch.enable_grad(), quick_products(parent):
                    joint_loss(model, ids, mask, targets).backward()
                optimizer.step()
                optimizer.zero_grad()
                step()
            is_better = mean_loss(model, some) < before  # where nothing was lost Adam only magnifies rounding
        return {index: model.layer(index) for index in layers} if is_better else layers


def mean_loss(model: GroupedParent, batches: Sequence[Batch]) -> float:
    """Over the targets of these batches."""
    with torch.no_grad(), quick_products(model.parent):
        losses = [float(joint_loss(model, *ids, targets)) * targets.count for ids, targets in batches]
    return sum(losses) / max(1, sum(targets.count for _, targets in batches))


def joint_loss(model: GroupedParent, ids: Tensor, mask: Tensor, targets: Targets) -> Tensor:
    """Mean over the targets of one batch of KL(parent || model), nats."""
    device = model.parent.device
    ids, attended = ids.to(device), mask.long().to(device)
    with torch.no_grad():
        known = targets.chosen(model.parent.model(input_ids=ids, attention_mask=attended, use_cache=False).logits)
    own = targets.chosen(model(ids, attended).logits)
    logp, logq = known.float().log_softmax(-1), own.float().log_softmax(-1)
    return torch.nn.functional.kl_div(logq, logp, reduction="sum", log_target=True) / max(1, targets.count)


@contextmanager
def _whole(parent: Parent) -> Iterator[None]:
    """Within the block all weights of the parent are in memory: every step needs them all."""
    with parent.module_loaded(parent.model):
        if parent.weights is not None:
            parent.weights.load(parent.model)
        yield
