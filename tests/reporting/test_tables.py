from __future__ import annotations

import io
import math
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gqasearch.reporting import MethodResult, ReportData, tables
from gqasearch.reporting.html import render_report
from gqasearch.reporting.numbers import number_text
from tests.reporting.samples import report_data


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data()


@pytest.fixture(scope="module")
def frame(data: ReportData) -> pd.DataFrame:
    return tables.results_frame(data)


def with_kl(data: ReportData, *kl: float) -> ReportData:
    return replace(data, results=tuple(replace(r, kl=value) for r, value in zip(data.results, kl, strict=False)))


def printed(data: ReportData, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(tables.results_table(data))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_rows_are_parent_first_then_by_falling_ratio_in_the_order_given(frame, data):
    assert frame["is_parent"].tolist() == [True] + [False] * 8
    assert frame["kv_ratio"].tolist() == [1.0] + [0.5] * 4 + [0.25] * 4
    assert frame["label"].tolist()[1:5] == [result.label for result in data.results[:4]]


def test_order_of_results_does_not_decide_the_order_of_ratios(data):
    turned = tables.results_frame(replace(data, results=data.results[4:] + data.results[:4]))
    assert turned["kv_ratio"].tolist() == [1.0] + [0.5] * 4 + [0.25] * 4


def test_share_of_the_baseline_is_taken_at_the_same_budget(frame):
    # 1.84/1.97, 1.90/1.97, 0.21/1.97 and 3.65/4.20, 3.80/4.20, 0.63/4.20, by hand
    expected = [1, 0.93401, 0.964467, 0.106599, 1, 0.869048, 0.904762, 0.15]
    assert math.isnan(frame["kl_of_baseline"][0])
    assert frame["kl_of_baseline"][1:].tolist() == pytest.approx(expected, rel=1e-5)


def test_shown_shares(frame):
    text = tables.as_text(frame)
    assert text["kl_of_baseline"].tolist() == [
        "",
        *["baseline", "0.93", "0.96", "1/9.38"],
        *["baseline", "0.87", "0.90", "1/6.67"],
    ]
    assert text["kl"].tolist()[:5] == ["0", "1.97", "1.84", "1.90", "0.210"]
    assert text["kv_bytes_per_token"].tolist()[0] == "9,216"
    assert text["seconds"][0] == ""


def test_in_what_kv_bytes_are_counted(data):
    stored = replace(data, parent=replace(data.parent, kv_value_bits=16))
    assert "KV bytes: in 16 bits as stored" in printed(stored) and "KV bytes: as stored" in printed(data)
    assert "KV bytes: in 16 bits as stored." in render_report(stored)


def test_best_is_the_lowest_of_each_budget_and_never_the_parent(frame):
    assert frame["is_best"].tolist() == [False, False, False, False, True, False, False, False, True]


def test_a_lone_result_is_not_called_best(data):
    assert not tables.results_frame(replace(data, results=data.results[:1]))["is_best"].any()


def test_no_baseline_no_column(data):
    others = replace(data, results=tuple(result for result in data.results if not result.is_baseline))
    frame = tables.results_frame(others)
    assert frame["kl_of_baseline"].isna().all()
    assert "kl_of_baseline" not in tables.as_text(frame)
    assert "baseline" not in printed(others)


def test_baseline_at_one_ratio_says_nothing_about_another(data):
    frame = tables.results_frame(replace(data, results=data.results[:4] + data.results[5:]))
    assert frame["kl_of_baseline"].notna().tolist() == [False] + [True] * 4 + [False] * 3
    assert tables.as_text(frame)["kl_of_baseline"].tolist()[5:] == ["", "", ""]


def test_neighbour_with_another_merge_is_no_baseline(data):
    changed = replace(data.results[0], merge="optimal", label="neighbour")
    assert not changed.is_baseline
    assert not tables.results_frame(replace(data, results=(changed,)))["is_baseline"].any()


def test_baseline_without_any_loss_gives_no_share(data):
    assert tables.results_frame(with_kl(data, 0.0, 0.1))["kl_of_baseline"].isna().all()


def test_infinite_kl_is_shown(data):
    text = tables.as_text(tables.results_frame(with_kl(data, 2.0, math.inf)))
    assert text["kl"].tolist()[2] == "inf"


def test_csv_round_trip(frame):
    again = pd.read_csv(io.StringIO(tables.results_csv(frame)))
    for column in (
        "kv_ratio",
        "kv_heads_total",
        "label",
        "perplexity",
        "kl",
        "kl_of_baseline",
        "parameters",
        "seconds",
    ):
        pd.testing.assert_series_equal(again[column], frame[column], check_dtype=False)
    assert again["is_parent"].tolist() == frame["is_parent"].tolist()
    assert again["fitness"].isna().tolist() == frame["fitness"].isna().tolist()


def test_csv_keeps_awkward_labels(data):
    label = 'a "quoted", label\nof two lines'
    frame = tables.results_frame(replace(data, results=(replace(data.results[0], label=label),)))
    assert pd.read_csv(io.StringIO(tables.results_csv(frame)))["label"][1] == label


def test_distance_by_ratio(frame):
    table = tables.distance_by_ratio(frame)
    assert table.index.tolist() == [0.5, 0.25]
    assert table.columns.tolist()[0] == "neighbour (GQA) + mean"
    assert table["merge error (ours) + optimal"].tolist() == [0.21, 0.63]


def test_terminal_table_fits_100_columns_with_every_value_whole(data):
    lines = printed(data).splitlines()
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)
    row = next(line for line in lines if "weight-sharing error (QCQA)" in line)
    parameters = tables.count_text(data.results[1].parameters).split()
    wanted = ["mean", "66.74", "1.84", "0.93", "4,608", *parameters, f"{data.results[1].seconds:.1f}"]
    assert row.split()[-8:] == wanted


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (12_345, "12.3 K"),
        (999_400, "999 K"),
        (999_600, "1.00 M"),
        (3_163_008, "3.16 M"),
        (134_515_008, "135 M"),
        (6_738_415_616, "6.74 B"),
    ],
)
def test_counts_have_three_digits(count: int, text: str):
    assert tables.count_text(count) == text


def test_long_labels_wrap_and_lose_nothing(data):
    long = replace(data.results[0], label="a fitness of somebody else's with a very long name, seed 17")
    page = printed(replace(data, results=(long,)))
    assert max(map(len, page.splitlines())) <= 100
    assert all(word in page for word in long.label.split())


def test_brackets_in_labels_and_titles_are_no_markup(data):
    odd = replace(data, title="[bold]t[/]", results=(replace(data.results[0], label="[red]x[/red]"),))
    assert "[red]x[/red]" in printed(odd)
    assert "[bold]t[/]" in printed(odd)


def test_headlines(frame):
    assert tables.headlines(frame) == [
        "KV ratio 0.5: merge error (ours) + optimal is 0.210 nats per token from the parent, perplexity 15.39 "
        "against 12.74; its KL is 1/9.38 of the GQA baseline's.",
        "KV ratio 0.25: merge error (ours) + optimal is 0.630 nats per token from the parent, perplexity 22.46 "
        "against 12.74; its KL is 1/6.67 of the GQA baseline's.",
    ]


def test_headline_of_the_baseline_does_not_compare_it_with_itself(data):
    (line,) = tables.headlines(tables.results_frame(replace(data, results=data.results[:1])))
    assert line.endswith("against 12.74.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0.200"),
        (1.966, "1.97"),
        (9.996, "10.0"),
        (0.09996, "0.100"),
        (1234.5, "1,234"),
        (0.00012, "0.000120"),
        (0.000001, "1.00e-06"),
        (0.0, "0"),
        (-0.25, "-0.250"),
        (math.inf, "inf"),
    ],
)
def test_number_text(value, text):
    assert number_text(value) == text


@given(st.floats(1e-9, 1e9))
def test_number_text_keeps_three_digits(value):
    assert float(number_text(value).replace(",", "")) == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.106, "1/9.43"), (0.5, "0.50"), (0.93, "0.93"), (1.3, "1.30"), (0.0, "0"), (-0.1, "0"), (math.nan, "")],
)
def test_share_text(share, text):
    assert tables.share_text(share) == text


def test_two_results_of_one_name_are_refused(data):
    with pytest.raises(ValueError, match="two results are named 'neighbour \\(GQA\\) \\+ mean' with 36 KV heads"):
        replace(data, results=(data.results[0], data.results[0]))


def test_name_tells_grouping_and_merge():
    fields = {"method": "m", "fitness": None, "kv_ratio": 0.5, "kv_heads_total": 3, "perplexity": 2.0, "kl": 0.1}
    result = MethodResult(label="mine", merge="mean", kv_bytes_per_token=8, parameters=9, seconds=0.1, **fields)
    assert result.name == "mine + mean"
