"""Which heads share, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from gqasearch.grouping import LayerGrouping
from gqasearch.reporting.data import FloatArray, LayerPicture
from gqasearch.reporting.numbers import number_text
from gqasearch.reporting.plots._style import GREY, styled

# Okabe and Ito's seven, then lighter tints of them; the number in the cell settles what colour cannot.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_ALONE = (0.94, 0.94, 0.94)
_CHARACTER = 0.063  # inches, of the 7.5 point text beside the cells
_TIMES = "\N{MULTIPLICATION SIGN}"
_Colour = tuple[float, float, float]


@dataclass(frozen=True)
class _Column:
    """A column of text beside the cells; ``at`` in inches from their right edge."""

    header: str
    texts: tuple[str, ...]
    at: float
    align: Literal["left", "right"]


def grouping_figure(layers: Sequence[LayerPicture], title: str) -> Figure:
    """One row per layer, one column per head; heads with one number and colour share a KV head.

    A head that keeps its own K and V is grey. On the right: groups of the layer, their sizes, and the
    error where known.
    """
    heads, depth = layers[0].grouping.num_heads, len(layers)
    # Whole CSS pixels (1/96 inch), so that equal digits are equal pixels: sharp, and a fifth of the bytes.
    cell = (33 if max(heads, depth) <= 16 else 21) / 96
    columns, columns_width = _columns(layers)
    names = [layer.name or str(row) for row, layer in enumerate(layers)]
    left, top, bottom = (54 + 5 * max(0, max(map(len, names)) - 2)) / 96, 63 / 96, 9 / 96
    width = max(left + cell * heads + columns_width, 0.3 + 0.088 * len(title))
    height = top + cell * depth + bottom
    with styled():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, bottom / height, cell * heads / width, cell * depth / height))
        colours = np.array([_row_colours(layer.grouping) for layer in layers])
        axes.imshow(colours, aspect="auto", interpolation="nearest")
        _write_numbers(axes, layers, colours, size=8.5 if cell > 0.3 else 6.5)
        _dress(axes, heads, names)
        _write_columns(axes, columns, cell)
        figure.text(0.1 / width, 1 - 0.06 / height, title, weight="bold", va="top")
    return figure


def _row_colours(grouping: LayerGrouping) -> list[_Colour]:
    """One colour per head; colours go to the groups of two or more, in order."""
    shared = [label for label, size in enumerate(grouping.sizes) if size > 1]
    return [_colour(shared.index(label)) if label in shared else _ALONE for label in grouping.labels]


def _colour(number: int) -> _Colour:
    red, green, blue = to_rgb(_COLOURS[number % len(_COLOURS)])
    tint = 0.55 * (number // len(_COLOURS) % 2)
    return red + tint * (1 - red), green + tint * (1 - green), blue + tint * (1 - blue)


def _write_numbers(axes: Axes, layers: Sequence[LayerPicture], colours: FloatArray, size: float) -> None:
    for row, layer in enumerate(layers):
        for head, label in enumerate(layer.grouping.labels):
            alone = layer.grouping.sizes[label] == 1
            ink = "#8a8a8a" if alone else _ink(colours[row, head])
            axes.text(head, row, str(label), ha="center", va="center", size=size, color=ink)


def _ink(colour: FloatArray) -> str:
    """Black or white, whichever stands out (relative luminance, WCAG 2)."""
    return "white" if colour**2.2 @ (0.2126, 0.7152, 0.0722) < 0.25 else "black"


def _dress(axes: Axes, heads: int, names: Sequence[str]) -> None:
    axes.set_xlabel("head", size=8, labelpad=4)
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.set_xticks(range(heads), [str(head) for head in range(heads)])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylabel("layer", size=8)
    axes.vlines(np.arange(1, heads) - 0.5, -0.5, len(names) - 0.5, color="white", linewidth=1.5)
    axes.hlines(np.arange(1, len(names)) - 0.5, -0.5, heads - 0.5, color="white", linewidth=1.5)
    axes.tick_params(length=0, labelsize=7, labelcolor=GREY)
    axes.spines[:].set_visible(False)


def _columns(layers: Sequence[LayerPicture]) -> tuple[list[_Column], float]:
    """The columns beside the cells, and the width in inches that they need."""
    counts = tuple(str(layer.grouping.num_groups) for layer in layers)
    sizes = tuple(_sizes_text(layer.grouping) for layer in layers)
    header = f"size {_TIMES} groups"
    columns = [_Column("groups", counts, 0.55, "right"), _Column(header, sizes, 0.7, "left")]
    width = 0.7 + _CHARACTER * max(map(len, [header, *sizes]))
    if any(layer.error is not None for layer in layers):
        width += 0.65
        columns.append(_Column("error", tuple(_error_text(layer) for layer in layers), width, "right"))
    if any(layer.gap is not None and not layer.proven_optimal for layer in layers):
        width += 0.55
        columns.append(_Column("gap", tuple(_gap_text(layer) for layer in layers), width, "right"))
    return columns, width + 0.1


def _write_columns(axes: Axes, columns: Sequence[_Column], cell: float) -> None:
    edge = axes.get_xlim()[1]
    for column in columns:
        for row, text in enumerate(column.texts):
            axes.text(edge + column.at / cell, row, text, ha=column.align, va="center", size=7.5, color=GREY)
        header_row = -0.5 - 0.1 / cell
        axes.text(
            edge + column.at / cell, header_row, column.header, ha=column.align, va="center", size=7.5, color=GREY
        )


def _error_text(layer: LayerPicture) -> str:
    if layer.error is None:
        return ""
    return number_text(layer.error) + ("*" if layer.proven_optimal else "")


def _gap_text(layer: LayerPicture) -> str:
    if layer.gap is None or layer.proven_optimal:
        return ""
    return f"{100 * layer.gap:.2g}%"


def _sizes_text(grouping: LayerGrouping) -> str:
    """Sizes, largest first, each with how many groups have it."""
    counts = Counter(grouping.sizes)
    return " ".join(f"{size}{_TIMES}{counts[size]}" for size in sorted(counts, reverse=True))
