"""How alike the heads of a layer are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gqasearch.grouping import LayerGrouping
from gqasearch.reporting.data import FloatArray, Similarity
from gqasearch.reporting.plots._style import GREY, styled

NUMBERED = 12  # heads, of which a map has room for the numbers


def similarity_figure(similarity: Similarity, groupings: Sequence[LayerGrouping] = ()) -> Figure:
    """Heat maps of head against head: a row of keys above a row of values, layers side by side.

    ``groupings``: of every layer, or of its keys and of its values in turn: heads then stand in the order of their
    groups, with a frame around those that share. One colour scale for all, symmetric about zero and as wide as the
    largest cosine off the diagonal; the diagonal (each head with itself, 1) is left grey.
    """
    depth, reach = similarity.key.shape[0], _reach(similarity)
    across = depth if depth <= 6 else 8
    bands = -(-depth // across)
    panel = 7.9 / max(across, 4)
    width, height = 0.65 + across * 1.06 * panel + 0.75, bands * (2.1 * panel + 0.55) + 0.1
    with styled():
        figure = Figure(figsize=(width, height))
        for layer in range(depth):
            band, column = divmod(layer, across)
            left, top = 0.65 + column * 1.06 * panel, height - 0.3 - band * (2.1 * panel + 0.55)
            for row, (what, cosines) in enumerate((("keys", similarity.key), ("values", similarity.value))):
                bottom = top - panel - row * 1.08 * panel
                axes = figure.add_axes((left / width, bottom / height, panel / width, panel / height))
                sides = len(groupings) // depth
                groups = groupings[layer * sides + row * (sides - 1)].groups if groupings else ()
                heads = [head for group in groups for head in group] or list(range(cosines.shape[1]))
                image = axes.imshow(
                    _off_diagonal(cosines[layer][np.ix_(heads, heads)]),
                    cmap="RdBu_r",
                    vmin=-reach,
                    vmax=reach,
                    interpolation="nearest",
                )
                _frame(axes, groups)
                _dress(axes, heads, what if column == 0 else None, layer if row == 0 else None)
        scale = figure.add_axes((1 - 0.6 / width, 1 - (0.3 + 2 * panel) / height, 0.1 / width, 1.9 * panel / height))
        bar = figure.colorbar(image, cax=scale)
        bar.set_label("cosine", fontsize=8, labelpad=1)
        bar.ax.tick_params(labelsize=6.5, pad=1)
        bar.outline.set_visible(False)
    return figure


def _frame(axes: Axes, groups: Sequence[Sequence[int]]) -> None:
    """A line around the pairs of every group of two heads or more."""
    start = 0
    for group in groups:
        if len(group) > 1:
            corner = (start - 0.5, start - 0.5)
            axes.add_patch(Rectangle(corner, len(group), len(group), fill=False, edgecolor="black", linewidth=0.9))
        start += len(group)


def _dress(axes: Axes, heads: list[int], what: str | None, layer: int | None) -> None:
    """Name the maps of the first column by ``what``, those of the upper row by ``layer``; number the heads."""
    axes.set_facecolor("#cccccc")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=6.5, labelcolor=GREY)
    if layer is not None:
        axes.set_title(f"layer {layer}", fontsize=8, fontweight="normal", pad=3)
    if heads == sorted(heads):
        _number_ends(axes, len(heads), down=what is not None, across=layer is None)
    else:  # every map has an order of its own
        places = range(len(heads)) if layer is None and len(heads) <= NUMBERED else ()
        axes.set_xticks(places, [str(heads[place]) for place in places], fontsize=5)
        axes.tick_params(pad=1)
        axes.set_yticks([])
    if what:
        axes.set_ylabel(f"{what}, head" if heads == sorted(heads) else what, fontsize=8)


def _number_ends(axes: Axes, heads: int, *, down: bool, across: bool) -> None:
    """The first and the last head, on the left and below."""
    ends = [0, heads - 1] if heads > 1 else [0]
    axes.set_yticks(ends if down else [])
    axes.set_xticks(ends if across else [])
    # Numbers stay inside their map, or the last of one would run into the first of the next.
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("left" if label.get_position()[0] == 0 else "right")
    for label in axes.get_yticklabels():
        label.set_verticalalignment("top" if label.get_position()[1] == 0 else "bottom")


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
