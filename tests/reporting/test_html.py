from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from gqasearch.errors import UserError
from gqasearch.reporting import ParetoFront, ReportData, html
from tests.reporting.samples import report_data

SCRIPT = '"><script>alert(1)</script>'


class Page(HTMLParser):
    """Tags, the addresses they load, and the text between them."""

    VOID = frozenset({"meta", "img", "br", "hr", "link"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def data() -> ReportData:
    front = ParetoFront(("kv ratio", "KL"), ((0.25, 0.6), (0.5, 0.2)), chosen=1)
    return replace(report_data(depth=2, heads=4), front=front)


@pytest.fixture(scope="module")
def source(data: ReportData) -> str:
    return html.render_report(data)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_tags_are_balanced(page):
    assert page.open == []


def test_every_part_is_there(page, data):
    text = " ".join(page.words)
    for result in data.results:
        assert result.label in text
        assert f"{result.seconds:.1f}" in text
    for words in (*data.warnings, data.configuration, "1/9.38", data.measurement.convention, "65,280 targets"):
        assert words in text
    for mapping in (data.model, data.environment):
        assert all(key in text and value in text for key, value in mapping.items())
    for use in data.texts:
        assert use.source in text
        assert use.used_for in text
    headings = ["Results", "Which heads share", "Pareto front", "Convergence", "How alike the heads are"]
    assert all(
        heading in text for heading in [*headings, "Which text is which", "Configuration", "Environment", "Words"]
    )


def test_opens_offline_and_runs_nothing(page, source):
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source


def test_one_picture_per_grouping_and_one_of_each_other_kind(page, data):
    kinds = [address.partition(";")[0] for address in page.addresses]
    assert kinds.count("data:image/webp") == len(data.results) + 2
    assert kinds.count("data:image/svg+xml") == 2


def test_the_csv_link_holds_the_results(page, data):
    (address,) = [address for address in page.addresses if address.startswith("data:text/csv")]
    table = base64.b64decode(address.partition("base64,")[2]).decode()
    assert table.splitlines()[0].startswith("kv_ratio,kv_heads_total,label")
    assert len(table.splitlines()) == 2 + len(data.results)


def test_every_string_is_escaped(data):
    odd = replace(
        data,
        title=SCRIPT,
        model={SCRIPT: SCRIPT},
        environment={SCRIPT: SCRIPT},
        configuration=SCRIPT,
        warnings=(SCRIPT,),
        measurement=replace(data.measurement, convention=SCRIPT),
        texts=tuple(replace(text, role=SCRIPT, source=SCRIPT, used_for=SCRIPT) for text in data.texts),
        results=tuple(replace(result, label=result.label + SCRIPT, merge=SCRIPT) for result in data.results[:2]),
        similarity=replace(data.similarity, what=SCRIPT),
        front=replace(data.front, objectives=(SCRIPT, SCRIPT)),
    )
    source = html.render_report(odd)
    page = Page(source)
    assert "script" not in page.tags
    assert page.open == []
    assert "".join(page.words).count("<script>alert(1)</script>") > 10
    for address in page.addresses:
        if address.startswith("data:text/csv"):
            continue  # a table's cell may hold anything; no browser reads it as markup
        assert b"<script" not in base64.b64decode(address.partition("base64,")[2])


def test_parts_that_were_not_run_are_left_out(data):
    bare = replace(
        data,
        results=tuple(replace(result, layers=(), history=()) for result in data.results[1:2]),
        similarity=None,
        front=None,
        warnings=(),
    )
    source = html.render_report(bare)
    for heading in ("Which heads share", "Pareto front", "Convergence", "How alike", "Keep in mind", "of baseline"):
        assert heading not in source
    assert "What fewer KV heads cost" not in source  # the table's one figure says it
    two = html.render_report(replace(data, results=tuple(one for one in data.results if one.kv_ratio == 0.5)))
    assert "all with as many KV heads" in two.partition("What fewer KV heads cost")[2]


@pytest.mark.nightly
def test_a_large_model_stays_under_two_megabytes():
    data = report_data(depth=32, heads=32, ratios=(0.5,))
    one = replace(data, results=data.results[1:2])
    assert len(html.render_report(one)) < 1_000_000


@pytest.fixture
def rendered(monkeypatch, source):
    """Drawing is tested above; these tests are about the file."""
    monkeypatch.setattr(html, "render_report", lambda data: source)


@pytest.mark.usefixtures("rendered")
def test_write_report_replaces_the_old_one(tmp_path, data, source):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    html.write_report(path, data)
    assert path.read_text(encoding="utf-8") == source
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("rendered")
def test_a_failed_write_leaves_the_old_report_and_nothing_else(tmp_path, data, request):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    request.getfixturevalue("full_disk")
    with pytest.raises(UserError, match=re.escape(f"cannot write {path}: No space left on device")):
        html.write_report(path, data)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("rendered")
def test_a_missing_folder_is_named(tmp_path, data):
    with pytest.raises(UserError, match="missing"):
        html.write_report(tmp_path / "missing" / "report.html", data)


def test_the_csv_and_the_page_come_from_one_frame(page, data):
    (address,) = [address for address in page.addresses if address.startswith("data:text/csv")]
    frame = pd.read_csv(io.BytesIO(base64.b64decode(address.partition("base64,")[2])))
    assert frame["kl"].tolist()[1:] == [result.kl for result in data.results]
