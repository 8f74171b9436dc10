"""One self-contained page: tables, figures, and how everything was measured. Opens offline, runs no script."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from matplotlib.figure import Figure

from gqasearch.files import write_file
from gqasearch.reporting import tables
from gqasearch.reporting.data import MethodResult, ReportData
from gqasearch.reporting.distance import Distance, distance_of
from gqasearch.reporting.plots import (
    convergence_figure,
    figure_svg,
    figure_webp,
    grouping_figure,
    kl_figure,
    one_ratio_figure,
    pareto_figure,
    rounded_figure,
    searched,
    similarity_figure,
)
from gqasearch.reporting.rounded_rows import HEADERS, rounded_headlines, rounded_rows


@dataclass(frozen=True)
class Picture:
    """A figure as the template needs it: a data URI, and words for who cannot see it."""

    uri: str
    alt: str
    width: int


def render_report(data: ReportData) -> str:
    """The page as text. Every string of ``data`` is escaped."""
    frame = tables.results_frame(data)
    text, distance = tables.as_text(frame), distance_of(frame)
    rows = [
        {"cells": cells, "is_best": bool(best), "starts_budget": starts}
        for cells, best, starts in zip(
            text.to_numpy().tolist(), frame["is_best"], tables.starts_budget(frame), strict=True
        )
    ]
    return load_template("template.html.j2").render(
        data=data,
        headlines=[*rounded_headlines(data.rounded), *tables.headlines(frame)],
        headers=[header.replace("\n", " ") for header in tables.headers(text)],
        left_aligned=[column in tables.LEFT_ALIGNED for column in text.columns],
        rows=rows,
        baseline=tables.BASELINE if "kl_of_baseline" in text.columns else None,
        kv_bytes=tables.stored_words(vars(data.parent)),
        csv_uri=data_uri("text/csv", tables.results_csv(frame).encode()),
        distance=distance,
        kl=_kl_picture(frame, distance),
        one_ratio=_ratios(frame) == 1,
        groupings=_grouping_pictures(data),
        proven=any(layer.proven_optimal for result in data.results for layer in result.layers),
        gaps=any(la.gap is not None and not la.proven_optimal for result in data.results for la in result.layers),
        convergence=_convergence_picture(data),
        similarity=_similarity_picture(data),
        grouped=None if (grouped := _grouped(data)) is None else grouped.name,
        front=_front_picture(data),
        rounded_headers=HEADERS,
        rounded_rows=_rounded_rows(data),
        rounded=_rounded_picture(data),
    )


def _ratios(frame: pd.DataFrame) -> int:
    return len(set(frame["kv_ratio"][~frame["is_parent"]]))


def _kl_picture(frame: pd.DataFrame, distance: Distance) -> Picture | None:
    """A line per method over the ratios; at one ratio a row each; None where the table's one figure says it all."""
    if _ratios(frame) > 1:
        return vector(kl_figure(frame), f"{distance.axis} against KV ratio, one line per method")
    (values,) = (row for _, row in tables.distance_by_ratio(frame).iterrows())
    if int((np.isfinite(values) & (values > 0)).sum()) < 2:
        return None
    return vector(one_ratio_figure(values, distance), f"{distance.axis} of every method")


def write_report(path: Path, data: ReportData) -> None:
    """Write the page to ``path``, whole or not at all. Raises ``UserError`` when it cannot be written."""
    write_file(path, render_report(data), overwrite=True)


def _grouping_pictures(data: ReportData) -> list[Picture]:
    pictures = []
    for result in data.results:
        if result.layers:
            title = f"{result.name}, KV ratio {result.kv_ratio:.3g}"
            groups = "; ".join(
                f"layer {layer.name or index}: {' '.join(str(list(group)) for group in layer.grouping.groups)}"
                for index, layer in enumerate(result.layers)
            )
            pictures.append(raster(grouping_figure(result.layers, title), f"Groups of {title}. {groups}"))
    return pictures


def _convergence_picture(data: ReportData) -> Picture | None:
    if not searched(data.results):
        return None
    return raster(convergence_figure(data.results), "Best fitness so far against evaluations, one panel per search")


def _similarity_picture(data: ReportData) -> Picture | None:
    if data.similarity is None:
        return None
    found = _grouped(data)
    groupings = [] if found is None else [layer.grouping for layer in found.layers]
    return raster(
        similarity_figure(data.similarity, groupings), "Cosine between heads, keys and values, one heat map per layer"
    )


def _grouped(data: ReportData) -> MethodResult | None:
    """The result by whose groups heads are put in order beside each other: the first that is of these heads."""
    if data.similarity is None:
        return None
    depth, heads = data.similarity.key.shape[:2]
    fitting = (one for one in data.results if one.layers and len(one.layers) % depth == 0 and not one.is_baseline)
    return next((one for one in fitting if one.layers[0].grouping.num_heads == heads), None)


def _front_picture(data: ReportData) -> Picture | None:
    if data.front is None:
        return None
    return vector(pareto_figure(data.front), f"Non-dominated candidates in {' and '.join(data.front.objectives)}")


def _rounded_rows(data: ReportData) -> list[dict[str, object]]:
    """Cells, and whether a model begins there."""
    rows, models = list(rounded_rows(data.rounded)), [None, *(result.model for result in data.rounded)]
    return [
        {"cells": cells, "starts_budget": before != result.model}
        for cells, result, before in zip(rows, data.rounded, models, strict=False)
    ]


def _rounded_picture(data: ReportData) -> Picture | None:
    if not data.rounded:
        return None
    return vector(rounded_figure(data.rounded), "KL to the parent against KV bytes, one line per model")


def vector(figure: Figure, alt: str) -> Picture:
    """A picture of few lines."""
    # As an image, an SVG can neither run script nor clash with another's element ids.
    return Picture(data_uri("image/svg+xml", figure_svg(figure).encode()), alt, _css_width(figure))


def raster(figure: Figure, alt: str) -> Picture:
    """A picture of very many cells or lines, which would make a large SVG."""
    return Picture(data_uri("image/webp", figure_webp(figure)), alt, _css_width(figure))


def _css_width(figure: Figure) -> int:
    return round(96 * figure.get_figwidth())


def data_uri(kind: str, content: bytes) -> str:
    """``content`` as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def load_template(name: str) -> Template:
    """A page's template; what is put into it is escaped."""
    environment = Environment(
        loader=PackageLoader("gqasearch", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
