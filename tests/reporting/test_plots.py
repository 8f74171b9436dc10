from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gqasearch.grouping import LayerGrouping
from gqasearch.reporting import History, HistoryPoint, LayerPicture, ParetoFront, Similarity, tables
from gqasearch.reporting.distance import distance_of
from gqasearch.reporting.plots import (
    convergence_figure,
    figure_svg,
    figure_webp,
    grouping_figure,
    kl_figure,
    one_ratio_figure,
    pareto_figure,
    similarity_figure,
)
from gqasearch.reporting.plots.kl_by_ratio import spread
from tests.reporting.samples import layer_pictures, random_grouping, report_data, similarity

TIMES = "\N{MULTIPLICATION SIGN}"


def cell_texts(figure, heads, depth):
    """(row, head) -> the number written in that cell."""
    return {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text()
        for text in figure.axes[0].texts
        if text.get_position()[0] < heads - 0.5 and -0.5 < text.get_position()[1] < depth
    }


def undrawn(figure):
    """Labels of ticks outside their axis, which exist and are not drawn."""
    return {
        tick.label1
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }


def texts_overlap(figure):
    """Pairs of texts of the figure whose boxes intersect."""
    figure.draw_without_rendering()
    hidden = undrawn(figure)
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_text().strip() and text not in hidden]
    # Of an annotation, the words without its thread.
    boxes = [(text.get_text(), mpl.text.Text.get_window_extent(text)) for text in texts]
    return [
        (a, b)
        for i, (a, box) in enumerate(boxes)
        for b, other in boxes[i + 1 :]
        if min(box.x1, other.x1) - max(box.x0, other.x0) > 1 and min(box.y1, other.y1) - max(box.y0, other.y0) > 1
    ]


@pytest.mark.parametrize(("depth", "heads", "groups"), [(6, 12, 6), (1, 2, 1), (16, 32, 8)])
def test_grouping_has_one_numbered_cell_per_head_and_layer(depth, heads, groups):
    layers = layer_pictures(np.random.default_rng(0), depth, heads, groups)
    figure = grouping_figure(layers, "title")
    axes = figure.axes[0]
    assert axes.images[0].get_array().shape == (depth, heads, 3)
    expected = {
        (row, head): str(label) for row, la in enumerate(layers) for head, label in enumerate(la.grouping.labels)
    }
    assert cell_texts(figure, heads, depth) == expected
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("head", "layer")


def test_cells_share_a_colour_exactly_when_they_share_a_group():
    grouping = LayerGrouping.from_groups([[0, 5, 9], [1, 2], [3], [4, 10], [6, 7], [8, 11]])
    cells = np.asarray(grouping_figure([LayerPicture(grouping)], "t").axes[0].images[0].get_array())[0]
    for i in range(12):
        for j in range(12):
            assert np.array_equal(cells[i], cells[j]) == (grouping.labels[i] == grouping.labels[j])


def test_heads_that_keep_their_own_are_all_grey():
    cells = np.asarray(grouping_figure([LayerPicture(LayerGrouping.singletons(4))], "t").axes[0].images[0].get_array())
    assert len(np.unique(cells)) == 1


def test_margin_tells_count_sizes_and_error():
    layer = LayerPicture(LayerGrouping.from_groups([[0, 1, 2], [3, 4], [5, 6], [7]]), error=0.1234, proven_optimal=True)
    texts = [text.get_text() for text in grouping_figure([layer], "t").axes[0].texts]
    assert texts[8:] == ["4", "groups", f"3{TIMES}1 2{TIMES}2 1{TIMES}1", f"size {TIMES} groups", "0.123*", "error"]


@pytest.mark.parametrize(("depth", "heads"), [(6, 12), (8, 32)])
def test_no_text_of_a_grouping_overlaps(depth, heads):
    layers = layer_pictures(np.random.default_rng(1), depth, heads, heads // 2)
    assert texts_overlap(grouping_figure(layers, "weight-sharing error (QCQA) + mean, KV ratio 0.5")) == []


@pytest.mark.parametrize(("depth", "heads"), [(6, 12), (10, 4)])
def test_similarity_has_two_maps_per_layer_and_one_scale(depth, heads):
    figure = similarity_figure(similarity(np.random.default_rng(0), depth, heads))
    maps = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(maps) == 2 * depth
    assert len({image.get_clim() for image in maps}) == 1
    assert sum(axes.get_ylabel() == "cosine" for axes in figure.axes) == 1


@pytest.mark.parametrize(("depth", "heads"), [(1, 2), (6, 12), (9, 32)])
def test_no_text_of_the_similarity_overlaps(depth, heads):
    assert texts_overlap(similarity_figure(similarity(np.random.default_rng(0), depth, heads))) == []


def test_no_text_of_the_convergence_overlaps():
    assert texts_overlap(convergence_figure(report_data(depth=9, heads=2, ratios=(0.5,)).results)) == []


def test_similarity_shows_the_cosines_and_masks_the_diagonal():
    given_cosines = similarity(np.random.default_rng(0), 2, 3)
    first = np.ma.filled(similarity_figure(given_cosines).axes[0].images[0].get_array(), np.nan)
    assert np.isnan(np.diag(first)).all()
    off = ~np.eye(3, dtype=bool)
    assert np.array_equal(first[off], given_cosines.key[0][off])


def test_heads_that_share_stand_side_by_side_in_a_frame():
    given_cosines, layer = similarity(np.random.default_rng(0), 1, 5), LayerGrouping.from_labels([0, 1, 0, 2, 1])
    order = [0, 2, 1, 4, 3]
    figure = similarity_figure(given_cosines, [layer])
    keys, values = figure.axes[:2]
    shown = np.ma.filled(values.images[0].get_array(), np.nan)
    off = ~np.eye(5, dtype=bool)
    assert np.array_equal(shown[off], given_cosines.value[0][np.ix_(order, order)][off])
    assert [label.get_text() for label in values.get_xticklabels()] == [str(head) for head in order]
    assert [(frame.get_xy(), frame.get_width()) for frame in keys.patches] == [((-0.5, -0.5), 2), ((1.5, 1.5), 2)]
    apart = similarity_figure(given_cosines, [layer, LayerGrouping.neighbours(5, 5)])
    assert [len(axes.patches) for axes in apart.axes[:2]] == [2, 0]
    assert np.isclose(apart.axes[1].images[0].get_array()[0, 1], given_cosines.value[0][0, 1])


@pytest.mark.parametrize(("depth", "heads"), [(6, 12), (9, 32)])
def test_no_text_of_the_similarity_by_group_overlaps(depth, heads):
    rng = np.random.default_rng(0)
    groupings = [random_grouping(rng, heads, heads // 2) for _ in range(depth)]
    assert texts_overlap(similarity_figure(similarity(rng, depth, heads), groupings)) == []


def test_similarity_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="must be"):
        Similarity(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), "x")


def test_convergence_has_a_panel_per_search_and_a_line_per_layer():
    data = report_data(depth=3, heads=4)
    figure = convergence_figure(data.results)
    panels = figure.axes
    assert len(panels) == 6  # the two neighbour baselines did not search
    for axes in panels:
        assert axes.get_xlabel() == "evaluations"
        assert len([line for line in axes.lines if len(line.get_xdata()) > 1]) == 3
    assert panels[0].get_ylabel() == "best weight-sharing"


def test_convergence_drops_only_points_where_nothing_changed():
    points = [HistoryPoint(i, 10 * (i + 1), best, 0.0) for i, best in enumerate([5.0, 5.0, 3.0, 3.0, 3.0])]
    result = replace(report_data(1, 4).results[1], history=(History("whole model", tuple(points)),))
    line = convergence_figure([result]).axes[0].lines[0]
    assert line.get_xdata().tolist() == [10, 30, 50]
    assert line.get_ydata().tolist() == [5, 3, 3]


def test_a_single_evaluation_is_no_curve():
    data = report_data(1, 4)
    once = replace(data.results[0], history=(History("whole model", (HistoryPoint(0, 1, 0.5, 0.1),)),))
    assert len(convergence_figure([once, *data.results[1:]]).axes) == 6
    with pytest.raises(ValueError, match="history of two"):
        convergence_figure([once])


def test_convergence_without_any_history_is_refused():
    with pytest.raises(ValueError, match="history"):
        convergence_figure(report_data(1, 4).results[:1])


def test_kl_figure_draws_every_method_at_every_ratio():
    frame = tables.results_frame(report_data(1, 4))
    figure = kl_figure(frame)
    axes = figure.axes[0]
    lines = {line.get_label(): sorted(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines}
    assert set(lines) == set(frame["name"][1:])
    assert lines["merge error (ours) + optimal"] == [(0.25, 0.63), (0.5, 0.21)]
    assert axes.get_yscale() == "log"
    assert "nats" in axes.get_ylabel()
    assert "KV ratio" in axes.get_xlabel()
    assert {text.get_text() for text in axes.texts} == set(lines)
    assert "KL 0" in figure.texts[0].get_text()


@pytest.mark.parametrize("ratios", [(0.5,), (0.5, 0.25), (0.75, 0.5, 0.48, 0.25)])
def test_no_text_of_the_kl_figure_overlaps(ratios):
    data = report_data(1, 4, ratios=(0.5, 0.25))
    results = [
        replace(
            result,
            label=f"{result.label} {copy}",
            kv_ratio=ratio,
            kv_heads_total=round(100 * ratio),
            kl=result.kl / ratio,
        )
        for ratio in ratios
        for copy in range(3)
        for result in data.results[:4]
    ]
    assert texts_overlap(kl_figure(tables.results_frame(replace(data, results=tuple(results))))) == []


def test_models_of_one_ratio_have_a_row_each():
    frame = tables.results_frame(report_data(1, 4, ratios=(0.5,)))
    distances = frame.set_index("name")["kl"].drop("parent")
    axes = one_ratio_figure(distances.sample(frac=1, random_state=0), distance_of(frame)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(distances.sort_values()[::-1].index)
    (places,) = (dots.get_offsets() for dots in axes.collections)
    assert [value for value, _ in sorted(places.tolist(), key=lambda dot: dot[1])] == sorted(distances)
    assert [text.get_text() for text in axes.texts][-1] == "0.210" and axes.get_xscale() == "log"


@pytest.mark.parametrize("kl", [0.0, math.inf])
def test_kl_that_a_log_axis_cannot_show_is_counted_in_the_note(kl):
    data = report_data(1, 4)
    hidden = replace(data, results=(replace(data.results[0], kl=kl), *data.results[1:]))
    assert kl_figure(tables.results_frame(hidden)).texts[0].get_text().endswith("infinite: 1.")


def test_kl_figure_with_nothing_to_show_says_so():
    data = report_data(1, 4)
    figure = kl_figure(tables.results_frame(replace(data, results=(replace(data.results[0], kl=0.0),))))
    assert figure.axes[0].texts[0].get_text() == "no result has a finite KL above 0"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20).map(sorted))
@example([1e-200, 0.058])
def test_spread_keeps_order_distance_and_bounds(wanted):
    gap = min(0.058, 1 / len(wanted))
    placed = spread(wanted, gap)
    assert all(after - before >= gap - 1e-9 for before, after in pairwise(placed))
    assert placed[-1] <= 1 + 1e-9
    assert placed[0] >= -1e-9
    if all(after - before >= gap for before, after in pairwise(wanted)):
        assert placed == pytest.approx(wanted, abs=1e-9)  # 0.058 - 0.058 is 0, whatever tiny number was wanted below it


def test_pareto_draws_every_point_and_rings_the_chosen():
    front = ParetoFront(("kv ratio", "KL"), ((0.5, 0.2), (0.25, 0.6), (0.75, 0.1)), chosen=1)
    axes = pareto_figure(front).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("kv ratio", "KL")
    dots, ring = axes.lines[1], axes.lines[2]
    assert dots.get_xdata().tolist() == [0.25, 0.5, 0.75]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (0.25, 0.6)


def test_pareto_of_three_objectives_has_a_panel_per_pair():
    front = ParetoFront(("a", "b", "c"), ((1.0, 2.0, 3.0), (3.0, 2.0, 1.0)))
    assert [(x.get_xlabel(), x.get_ylabel()) for x in pareto_figure(front).axes] == [("a", "b"), ("a", "c"), ("b", "c")]


@pytest.mark.parametrize(("objectives", "points"), [(("a",), ((1.0,),)), (("a", "b"), ((1.0,),))])
def test_front_of_the_wrong_shape_is_refused(objectives, points):
    with pytest.raises(ValueError, match="a front needs"):
        ParetoFront(objectives, points)


def test_drawing_leaves_matplotlib_as_it_was_and_repeats_to_the_byte():
    before = dict(mpl.rcParams)
    frame = tables.results_frame(report_data(1, 4))
    first, second = figure_svg(kl_figure(frame)), figure_svg(kl_figure(frame))
    assert first == second
    assert dict(mpl.rcParams) == before


def test_labels_are_neither_mathematics_nor_markup():
    data = report_data(1, 4)
    label = "$\\frac{1}{ <script>alert(1)</script> --> & cost $5"
    frame = tables.results_frame(replace(data, results=(replace(data.results[0], label=label),)))
    svg = figure_svg(kl_figure(frame))
    assert "<script" not in svg
    assert ET.fromstring(svg).tag.endswith("svg")


def test_webp_is_one_and_at_two_pixels_per_css_pixel():
    figure = pareto_figure(ParetoFront(("a", "b"), ((1.0, 2.0),)))
    image = figure_webp(figure)
    assert image[:4] == b"RIFF"
    assert image[8:16] == b"WEBPVP8L"
    width = 1 + (int.from_bytes(image[21:25], "little") & 0x3FFF)
    assert abs(width - 192 * figure.get_figwidth()) <= 1


def test_an_open_gap_stands_beside_the_error() -> None:
    grouping = LayerGrouping.from_groups([[0, 1, 2], [3]])
    proven, bounded = LayerPicture(grouping, 2.0, True, 2.0), LayerPicture(grouping, 2.0, False, 1.98)
    assert bounded.gap == pytest.approx(0.01) and LayerPicture(grouping, 2.0).gap is None
    texts = [text.get_text() for text in grouping_figure([proven, bounded], "").axes[0].texts]
    assert "gap" in texts and "1%" in texts and any(text.endswith("*") for text in texts)
    assert "gap" not in [text.get_text() for text in grouping_figure([proven], "").axes[0].texts]
