"""Which heads share, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from gqasearch.grouping import LayerGrouping
from gqasearch.reporting.data import LayerPicture
from gqasearch.reporting.plots._style import GREY, styled
from gqasearch.reporting.tables import number_text

# Okabe and Ito's seven, then lighter tints of them; the number in the cell settles what colour cannot.
_STRONG = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_ALONE = (0.94, 0.94, 0.94)


def grouping_figure(layers: Sequence[LayerPicture], title: str) -> Figure:
    """One row per layer, one column per head; heads with one number and colour share a KV head.

    A head that keeps its own K and V is grey. On the right: groups of the layer, their sizes, and the
    error where known.
    """
    heads, depth = layers[0].grouping.num_heads, len(layers)
    cell = 0.34 if max(heads, depth) <= 16 else 0.215
    margins = [_sizes_text(layer.grouping) for layer in layers]
    sizes_width = 0.063 * max(map(len, [_SIZES, *margins]))
    left, top, bottom = 0.55, 0.72, 0.1
    right = _SIZES_AT + sizes_width + (0.7 if any(layer.error is not None for layer in layers) else 0.1)
    width, height = left + cell * heads + right, top + cell * depth + bottom
    with styled():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, bottom / height, cell * heads / width, cell * depth / height))
        axes.imshow(_cell_colours(layers), aspect="auto", interpolation="nearest")
        _write_numbers(axes, layers, size=8.5 if cell > 0.3 else 6.5)
        _dress(axes, heads, depth)
        _write_margin(axes, layers, margins, cell)
        figure.text(0.1 / width, 1 - 0.06 / height, title, weight="bold", va="top")
    return figure


def _dress(axes: Axes, heads: int, depth: int) -> None:
    axes.set_xlabel("head", labelpad=2)
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.set_xticks(range(heads), [str(head) for head in range(heads)])
    axes.set_yticks(range(depth), [str(layer) for layer in range(depth)])
    axes.set_ylabel("layer")
    axes.set_xticks(np.arange(heads + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(depth + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, labelsize=7, labelcolor=GREY)
    axes.spines[:].set_visible(False)


def _write_numbers(axes: Axes, layers: Sequence[LayerPicture], size: float) -> None:
    for row, layer in enumerate(layers):
        sizes = layer.grouping.sizes
        for head, label in enumerate(layer.grouping.labels):
            colour = "#8a8a8a" if sizes[label] == 1 else _ink(_colour(label))
            axes.text(head, row, str(label), ha="center", va="center", size=size, color=colour)


def _write_margin(axes: Axes, layers: Sequence[LayerPicture], margins: Sequence[str], cell: float) -> None:
    """Group count, sizes and error, right of the cells, in columns measured in inches."""
    errors_at = _SIZES_AT + 0.063 * max(map(len, [_SIZES, *margins])) + 0.6
    columns = [
        ("groups", [str(layer.grouping.num_groups) for layer in layers], _SIZES_AT - 0.12, "right"),
        (_SIZES, margins, _SIZES_AT, "left"),
    ]
def _error_text(layer: LayerPicture) -> str:
    if layer.error is None:
        return ""
    return number_text(layer.error) + ("*" if layer.proven_optimal else "")


def _sizes_text(grouping: LayerGrouping) -> str:
    """Sizes, largest first, each with how many groups have it: "4×1  2×3"."""
    counts = Counter(grouping.sizes)
    return "  ".join(f"{size}×{counts[size]}" for size in sorted(counts, reverse=True))


def _cell_colours(layers: Sequence[LayerPicture]) -> np.ndarray:
    """RGB of every cell, (L, H, 3)."""
    return np.array(
        [
            [_ALONE if layer.grouping.sizes[label] == 1 else _colour(label) for label in layer.grouping.labels]
            for layer in layers
        ]
    )


def _colour(label: int) -> tuple[float, float, float]:
    red, green, blue = to_rgb(_STRONG[label % len(_STRONG)])
    tint = 0.55 * (label // len(_STRONG) % 2)
    return red + tint * (1 - red), green + tint * (1 - green), blue + tint * (1 - blue)


def _ink(colour: tuple[float, float, float]) -> str:
    """Black or white, whichever stands out (relative luminance, WCAG 2)."""
    red, green, blue = colour
    return "white" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.25 else "black"
