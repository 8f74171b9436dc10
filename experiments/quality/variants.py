"""Refinements that were tried, those of the product among them: what each gives by itself and together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from experiments.quality.overfitting import GuardedDescent
from gqasearch.calibration import TokenBlocks
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter, LayerStack, WholeModel, tied_runner
from gqasearch.grouping import Grouping
from gqasearch.models import LayerWeights, Parent, decoder_layer, tie_heads
from gqasearch.refining import (
    AttentionCall,
    Descent,
    Joint,
    LayersAlone,
    LayerSite,
    LayerwiseRefinement,
    NoRefinement,
    Outputs,
    Refinement,
    Streams,
)
from gqasearch.refining.whitening import Whitening

# (converter, grouping, calibration text, blocks per forward pass) -> the converted model.
Variant: TypeAlias = Callable[[Converter, Grouping, TokenBlocks, int], LayerStack]

STEPS = (40, 80, 160, 240, 320)
QUICK_STEPS = (1, 2)
RATES = (0.005, 0.05)  # below and above the default
JOINT_STEPS, JOINT_RATES = (50, 100, 200, 400), (0.001, 0.01)
PULLS = (0.003, 0.03)  # back to the start, per step
PARTS = (("q",), ("q", "o"), ("q", "k"), ("v", "o"), ("k", "o"))  # of W_q, W_k, W_v, W_o, what Adam may change


def variants(quick: bool) -> dict[str, Variant]:
    """Name -> variant, from nothing to everything; ``quick``: with hardly any steps."""
    counts = QUICK_STEPS if quick else STEPS
    steps = counts[-1] if quick else Descent.steps
    found: dict[str, Variant] = {
        "none": refined(NoRefinement()),
        "outputs": refined(Outputs()),
        "outputs, layer by itself": by_itself(Outputs()),
        "outputs + MLP": with_mlp(Outputs()),
    }
    for parts in PARTS:
        found[f"descent on {', '.join(parts)} alone"] = refined(PartialDescent(steps=steps, parts=parts))
    for count in counts:
        found[f"descent, {count} steps"] = refined(Descent(steps=count))
    for rate in RATES:
        found[f"descent, learning rate {rate:g}"] = refined(Descent(steps=steps, learning_rate=rate))
    found["descent, not whitened"] = refined(PlainDescent(steps=steps))
    found["descent, stopped early"] = refined(GuardedDescent(steps=steps, stop_early=True))
    for pull in PULLS:
        found[f"descent, pulled to the start by {pull:g}"] = refined(GuardedDescent(steps=steps, pull=pull))
    found["descent, layer by itself"] = by_itself(Descent(steps=steps))
    found["descent + MLP"] = with_mlp(Descent(steps=steps))
    return found | joint_variants(counts if quick else JOINT_STEPS, steps)


def joint_variants(counts: Sequence[int], steps: int) -> dict[str, Variant]:
    """Layers together, by number of steps and by rate; ``steps``: of the descent before."""
    found = {f"joint, {count} steps": refined(Joint(steps=steps, joint_steps=count)) for count in counts}
    last = counts[-1]
    for rate in JOINT_RATES:
        found[f"joint, {last} steps, rate {rate:g}"] = refined(Joint(steps=steps, joint_steps=last, joint_rate=rate))
    return found


def refined(refinement: Refinement) -> Variant:
    """Merge, then refine."""

    def convert(converter: Converter, grouping: Grouping, blocks: TokenBlocks, batch_blocks: int) -> LayerStack:
        return converter.runner(grouping, converter.refine(grouping, blocks, refinement, batch_blocks=batch_blocks))

    return convert


@dataclass(frozen=True)
class PartialDescent(Descent):
    """Descent in which Adam changes some weights alone (and their biases); W_o is refitted before and after."""

    parts: tuple[str, ...] = ()

    def descend(
        self, site: LayerSite, weights: LayerWeights, whitening: Whitening, step: Callable[[], None]
    ) -> LayerWeights:
        known: dict[str, Any] = {field.name: getattr(site, field.name) for field in fields(site)}
        free = (*self.parts, *(f"{part}_bias" for part in self.parts if part != "o"))
        held = HeldSite(**known, held=whitening.into(weights), free=free)
        return super().descend(held, weights, whitening, step)


@dataclass(frozen=True, kw_only=True)
class HeldSite(LayerSite):
    """A site that takes the weights named in ``free`` from its caller, all others from ``held``: they get no gradient,
    and Adam leaves alone what has none.
    """

    held: LayerWeights
    free: tuple[str, ...]

    def attend(self, weights: LayerWeights, call: AttentionCall) -> Tensor:
        given: dict[str, Any] = {name: getattr(weights, name) for name in self.free}
        return super().attend(replace(self.held, **given), call)


@dataclass(frozen=True)
class PlainDescent(Descent):
    """Descent on the weights as they are stored."""

    def descend(
        self, site: LayerSite, weights: LayerWeights, whitening: Whitening, step: Callable[[], None]
    ) -> LayerWeights:
        same = torch.eye(len(whitening.root)).to(whitening.root)
        return super().descend(site, weights, Whitening(same), step)


def by_itself(inner: LayerwiseRefinement) -> Variant:
    """``inner``, each layer as if it were the only one converted: on the parent's own stream, to the parent's
    attention output.
    """

    def convert(converter: Converter, grouping: Grouping, blocks: TokenBlocks, batch_blocks: int) -> LayerStack:
        alone = LayersAlone(converter.parent, blocks, inner, batch_blocks=batch_blocks)
        grouped = [(i, layer) for i, layer in enumerate(grouping) if layer.num_groups < layer.num_heads]
        refined = {i: alone.refine(i, layer, converter.merged_layer(grouping, i)) for i, layer in grouped}
        return converter.runner(grouping, refined)

    return convert


def with_mlp(inner: LayerwiseRefinement) -> Variant:
    """``inner``, and after every block from the first grouped one on W_down of its MLP (``MLPStreams``)."""

    def convert(converter: Converter, grouping: Grouping, blocks: TokenBlocks, batch_blocks: int) -> LayerStack:
        parent, tied = converter.parent, dict[int, LayerWeights]()
        with torch.no_grad():
            streams = MLPStreams(parent, blocks, inner.blocks_per_pass(batch_blocks))
            for index, layer in enumerate(grouping):
                streams.advance_parent(index)
                if layer.num_groups < layer.num_heads:
                    site = streams.site(index, layer)
                    merged = converter.merged_layer(grouping, index).to(site.dtype)
                    found = inner.refine_layer(site, merged, lambda: None)
                    tied[index] = tie_heads(found, layer, parent.geometry.queries_per_kv)
                streams.advance_converted(index, tied.get(index))
        run_tied = tied_runner(parent, tied)

        def run(ids: Tensor, mask: Tensor) -> Tensor:
            with mlps_changed(parent, streams.changes):
                return run_tied(ids, mask)

        return WholeModel(run)

    return convert


class MLPStreams(Streams):
    """Streams in which W_down of every converted block, and of those above, is refitted to the parent's stream
    just after the block, by the same ridge regression as W_o:

        W = argmin_W  E||r_parent - h - W z||^2 + ridge * mean(diag E[z z^T]) * ||W - W_down||^2

    with z (M,) the input of W_down and h the converted stream just before its output is added. ``changes``: layer ->
    W - W_down, (D, M) float64.
    """

    def __init__(self, parent: Parent, blocks: TokenBlocks, batch_blocks: int, ridge: float = 1e-3) -> None:
        super().__init__(parent, blocks, batch_blocks)
        self.ridge = ridge
        self.changes: dict[int, Tensor] = {}

    def advance_converted(self, index: int, layer: LayerWeights | None) -> None:
        seen: list[Tensor] = []
        projection = down_projection(self.parent, index)
        handle = projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        try:
            super().advance_converted(index, layer)
        finally:
            handle.remove()
        if self._one:
            return
        change = self._fitted_change(seen)
        given = iter(seen)
        self.converted.level -= 1
        self.converted.advance(lambda _batch, hidden: hidden + (z := next(given)) @ change.T.to(z))
        self.changes[index] = change

    def _fitted_change(self, inputs: list[Tensor]) -> Tensor:
        size, width = inputs[0].shape[-1], self.parent.geometry.hidden_size
        gram = torch.zeros(size, size, dtype=torch.float64, device=inputs[0].device)
        cross = gram.new_zeros(width, size)
        streams = zip(self.original.hidden, self.converted.hidden, strict=True)
        for batch, given, (wanted, got) in zip(self.converted.batches, inputs, streams, strict=True):
            z = given[batch.mask].double()
            gram += z.T @ z
            cross += (wanted - got)[batch.mask].double().T @ z
        gram.diagonal().add_(self.ridge * gram.diagonal().mean())
        change: Tensor = torch.linalg.solve(gram, cross, left=False)
        return change


def down_projection(parent: Parent, index: int) -> torch.nn.Linear:
    """The module of W_down, whose output the residual stream gets."""
    module = getattr(getattr(decoder_layer(parent, index), "mlp", None), "down_proj", None)
    if not isinstance(module, torch.nn.Linear):
        raise UserError(f"the MLP of {parent.id} has no down_proj; its W_down cannot be refitted here")
    return module


@contextmanager
def mlps_changed(parent: Parent, changes: Mapping[int, Tensor]) -> Iterator[None]:
    """Within the block W_down of these layers is changed by so much; put back on leaving."""
    weights = {index: down_projection(parent, index).weight for index in changes}
    before = {index: weight.data for index, weight in weights.items()}
    try:
        for index, weight in weights.items():
            weight.data = (weight.data.double() + changes[index]).to(weight.dtype)
        yield
    finally:
        for index, weight in weights.items():
            weight.data = before[index]
