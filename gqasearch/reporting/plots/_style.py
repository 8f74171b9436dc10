"""One look for all figures: light, colour-blind safe, the same bytes for the same data."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Locator, LogLocator, NullFormatter

# Okabe and Ito, https://jfly.uni-koeln.de/color/, without the yellow that vanishes as a line on white.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"

# Any: what the keys are typed as differs between releases of matplotlib.
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#888888",
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "gqasearch",
    # Labels are the user's: a "$" in one is no mathematics.
    "text.parse_math": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw with the project's style and put matplotlib's settings back afterwards."""
    with mpl.rc_context(_STYLE):
        yield


def figure_svg(figure: Figure) -> str:
    """The figure as SVG, text as outlines; the same figure gives the same bytes."""
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def figure_webp(figure: Figure) -> bytes:
    """The figure as lossless WebP, two pixels per CSS pixel: a tenth of the SVG when it has a thousand cells."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="webp", dpi=192, pil_kwargs={"lossless": True})
    return buffer.getvalue()


def figure_png(figure: Figure) -> bytes:
    """The figure as PNG, for files of its own."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def plain_log_axis(axes: Axes, which: str) -> None:
    """A log scale for axis "x" or "y", labelled 0.2, 0.5, 1 and not with powers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis.set_major_locator(_OneTwoFive())
    axis.set_major_formatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.0e}")
    axis.set_minor_formatter(NullFormatter())


class _OneTwoFive(Locator):
    """Ticks at 1, 2, 5 times powers of ten; powers alone where these would crowd."""

    def __call__(self) -> Any:
        low, high = sorted(self.axis.get_view_interval())  # type: ignore[union-attr]
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Any:
        subs = (1.0, 2.0, 5.0) if vmax / vmin < 300 else (1.0,)
        return LogLocator(subs=subs, numticks=12).tick_values(vmin, vmax)
