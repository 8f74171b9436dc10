"""How alike the heads of a layer are."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from gqasearch.reporting.data import FloatArray, Similarity
from gqasearch.reporting.plots._style import GREY, styled


def similarity_figure(similarity: Similarity) -> Figure:
    """Heat maps of head against head: a row of keys above a row of values, layers side by side.

    One colour scale for all, symmetric about zero and as wide as the largest cosine off the diagonal;
    the diagonal (each head with itself, 1) is left grey.
    """
    depth, heads = similarity.key.shape[:2]
    across = depth if depth <= 6 else 8
    bands = -(-depth // across)
    reach = _reach(similarity)
    with styled():
        figure = Figure(figsize=(9.6, 2 * bands * 9.0 / across * 0.98 + 0.5), layout="constrained")
        grid = figure.subplots(2 * bands, across, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        for layer in range(depth):
            band, column = divmod(layer, across)
            for offset, (what, cosines) in enumerate((("keys", similarity.key), ("values", similarity.value))):
                axes = grid[2 * band + offset, column]
                axes.set_visible(True)
                image = axes.imshow(
                    _off_diagonal(cosines[layer]), cmap=_MAP, vmin=-reach, vmax=reach, interpolation="nearest"
                )
                axes.set_facecolor("#cccccc")
                axes.spines[:].set_visible(False)
                axes.tick_params(length=0, labelsize=6.5, labelcolor=GREY)
                axes.set_xticks([0, heads - 1] if offset else [])
                axes.set_yticks([0, heads - 1] if column == 0 else [])
                if column == 0:
                    axes.set_ylabel(f"{what}, head", fontsize=8)
                if offset == 0:
                    axes.set_title(f"layer {layer}", fontsize=8, fontweight="normal")
        bar = figure.colorbar(image, ax=grid, shrink=0.6 / bands, aspect=18, pad=0.015)
        bar.set_label("cosine", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    return figure


_MAP = "RdBu_r"


def _off_diagonal(cosines: FloatArray) -> FloatArray:
    masked = cosines.astype(np.float64, copy=True)
    np.fill_diagonal(masked, np.nan)
    return masked


def _reach(similarity: Similarity) -> float:
    """Largest |cosine| between two different heads, rounded up to a tenth."""
    both = np.concatenate([similarity.key, similarity.value])
    off = both[:, ~np.eye(both.shape[1], dtype=bool)]
    largest = float(np.abs(off).max()) if off.size else 0.0
    return min(1.0, max(0.1, float(np.ceil(largest * 10) / 10)))
