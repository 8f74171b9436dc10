"""Models with rounded KV caches in the page and in the terminal's rows."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import Any

from gqasearch.reporting.html import render_report
from gqasearch.reporting.plots import rounded_figure
from gqasearch.reporting.rounded_rows import AS_STORED, kl_by_share, rounded_results, rounded_rows
from tests.reporting.samples import report_data


def record(kl: float, share: float, **more: Any) -> dict[str, Any]:
    return {"perplexity": 12.74, "kl": kl, "kv_bytes_per_token": 9216 * share, "kv_share": share, **more}


METRICS = {
    "parent": record(0.0, 2.0),
    "results": {"converted": record(0.0516, 1.0)},
    "rounded": [
        record(0.0085, 0.25, model="parent", format="int4"),
        record(0.063, 0.125, model="converted", format="int4"),
        record(0.27, 0.125, model="parent", format="int2"),
        record(0.31, 0.125, model="parent", format="kivi2"),
    ],
}
NAMES = {"converted": "merge-error + optimal, KV ratio 0.5"}


def test_every_model_as_it_is_stored_then_rounded() -> None:
    rows = list(rounded_rows(rounded_results(METRICS, NAMES)))
    assert [row[:2] for row in rows] == [
        ("parent", AS_STORED),
        *[("parent", name) for name in ("int4", "int2", "kivi2")],
        (NAMES["converted"], AS_STORED),
        (NAMES["converted"], "int4"),
    ]
    assert rows[1][2:] == ("12.74", "0.00850", "2,304", "0.250") and rows[0][3] == "0"
    assert rounded_results({name: METRICS[name] for name in ("parent", "results")}) == ()


def test_the_page_shows_them() -> None:
    plain, data = report_data(), replace(report_data(), rounded=rounded_results(METRICS, NAMES))
    page = render_report(data)
    heading = "With a rounded KV cache"
    assert heading in page and heading not in render_report(plain)
    section = page.partition(heading)[2].partition("<h2>")[0]
    cells = re.findall(r"<tr[^>]*>(.*?)</tr>", section)
    found = [tuple(unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)) for row in cells]
    assert found[1:] == list(rounded_rows(data.rounded))
    assert section.count("starts-budget") == 2 and "data:image/svg+xml" in section
    headline = (
        "KV cache in int4, 0.125 of the parent's bytes in 16 bits: 0.0630 nats per token from the parent, perplexity "
        "12.74 (merge-error + optimal, KV ratio 0.5)."
    )
    assert headline in unescape(page).partition("<h2>")[0]


def test_the_figure_has_a_point_for_every_size() -> None:
    table = kl_by_share(rounded_results(METRICS, NAMES))
    assert list(table.columns) == ["parent", NAMES["converted"]] and list(table.index) == [1.0, 0.25, 0.125]
    assert table.loc[0.125].tolist() == [0.27, 0.063]  # of int2 and kivi2 the better one
    lines = [line for axes in rounded_figure(rounded_results(METRICS, NAMES)).axes for line in axes.get_lines()]
    assert {str(line.get_label()): list(line.get_ydata()) for line in lines} == {
        "parent": [0.0085, 0.27],
        NAMES["converted"]: [0.0516, 0.063],
    }
