"""What it costs that heads whose norms have weights of their own share one, by how far these weights are apart.

The embedded model's layers with a LayerNorm of every head put in, whose weights are 1 and a random part of size
``spread``, the same for both dimensions of a RoPE pair or not. Nothing is trained: errors are those that merges tell.

    python -m experiments.whole_norm.own_norms
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from experiments.whole_norm.text import blocks_of
from gqasearch.calibration import collect
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import LayerWeights, load_parent

SPREADS = (0.0, 0.1, 0.3)
HALF = LayerGrouping.neighbours(12, 6)


def with_norms(layer: LayerWeights, spread: float, *, in_pairs: bool, seed: int) -> LayerWeights:
    """The layer under LayerNorms; ``in_pairs``: weights are the same in both dimensions of a pair."""
    generator = torch.Generator().manual_seed(seed)

    def weights(heads: int) -> Tensor:
        drawn = 1 + spread * torch.randn(heads, layer.head_dim, generator=generator)
        half = layer.head_dim // 2
        return torch.cat([drawn[:, :half]] * 2, 1) if in_pairs else drawn

    return replace(layer, q_norms=weights(len(layer.q)), k_norms=weights(len(layer.k)), centred=True)


def main() -> None:
    parent = load_parent("embedded")
    layers = range(parent.geometry.num_layers)
    with tempfile.TemporaryDirectory() as folder:
        statistics = list(collect(parent, blocks_of("calibration", parent.tokenizer, 8192), Path(folder)))
    print("| weights differ by | in pairs alike | in every dimension |\n|---|---|---|")
    base = 0.0
    for spread in SPREADS:
        found = []
        for in_pairs in (True, False):
            sums = 0.0
            for index in layers:
                layer = with_norms(parent.layer(index), spread, in_pairs=in_pairs, seed=index)
                merge = make_merge("optimal").for_layer(layer, statistics[index])
                energy = float(statistics[index].residual_energy)
                sums += sum(merge.group_errors(list(HALF.groups), "keys")) / energy
            found.append(sums)
        base = base or found[0]
        print(f"| {spread:.1f} | {found[0] / base:.3f} | {found[1] / base:.3f} |")


if __name__ == "__main__":
    main()
