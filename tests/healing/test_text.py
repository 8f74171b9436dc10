"""Three texts for healing never overlap, are read in pieces, and the reported one is what evaluate reports on."""

from __future__ import annotations

import json
import re
import shutil
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gqasearch.calibration import load_documents, load_whole
from gqasearch.embedded import SPLITS, Document, held_out_documents, training_documents
from gqasearch.errors import UserError
from gqasearch.healing import text_split as text_module
from gqasearch.healing.text_split import PIECE, HealingTexts, healing_texts
from tests.samples import text_file

MARKER = re.compile(r"<\d{5}>")


def marker(index: int) -> str:
    return f"<{index:05d}>"


def parts(texts: HealingTexts) -> list[list[Document]]:
    return [list(part) for part in (texts.trained, texts.validation, texts.reported)]


def joined(documents: Iterable[Document]) -> str:
    return "".join(document.text for document in documents)


def owners(texts: HealingTexts, markers: int) -> list[list[int]]:
    """For each marker, the parts that it stands in."""
    inside = [set(MARKER.findall(joined(part))) for part in parts(texts)]
    return [[number for number, found in enumerate(inside) if marker(index) in found] for index in range(markers)]


def jsonl(path: Path, texts: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_a_file_is_cut_at_its_shares(tmp_path: Path) -> None:
    """Marker lines of 8 characters, in a file of many pieces: each in one part, in order, but for those cut through."""
    count = 3 * PIECE // 8
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{marker(i)}\n" for i in range(count)), encoding="utf-8")
    texts = healing_texts(str(path))
    found = owners(texts, count)
    assert sum(len(numbers) != 1 for numbers in found) <= 2
    order = [numbers[0] for numbers in found if numbers]
    assert order == sorted(order)
    assert [round(order.count(part) / count, 2) for part in range(3)] == [0.65, 0.05, 0.3]
    trained = list(texts.trained)
    assert len(trained) > 1 and [document.continues for document in trained] == [False] + [True] * (len(trained) - 1)
    assert all(document.text.endswith("\n") for document in trained[:-1])
    assert joined(document for part in parts(texts) for document in part) == path.read_text(encoding="utf-8")


def test_lines_of_a_jsonl_are_cut_at_their_shares(tmp_path: Path) -> None:
    texts = healing_texts(str(jsonl(tmp_path / "a.jsonl", [marker(i) for i in range(200)])))
    assert [[marker(i) for i in range(*bounds)] for bounds in ((0, 130), (130, 140), (140, 200))] == [
        [document.text for document in part] for part in parts(texts)
    ]


@pytest.mark.parametrize("count", [3, 4, 5, 7, 40])
@pytest.mark.parametrize("apart", [False, True])
def test_files_of_a_folder_are_dealt_whole(tmp_path: Path, count: int, apart: bool) -> None:
    folder, other = tmp_path / "folder", text_file(tmp_path)
    (folder / "below").mkdir(parents=True)
    for index in range(count):
        if index % 2:
            jsonl(folder / "below" / f"{index:02d}.jsonl", [f"{marker(index)} first", f"{marker(index)} second"])
        else:
            (folder / f"{index:02d}.txt").write_text(f"{marker(index)} first second", encoding="utf-8")
    texts = healing_texts(str(folder), str(other) if apart else None)
    found = owners(texts, count)
    assert all(len(numbers) == 1 for numbers in found)
    assert {number for numbers in found for number in numbers} == ({0, 1} if apart else {0, 1, 2})
    assert [number for numbers in found for number in numbers].count(1) == max(1, count // 20)
    search = {document.name for document in load_documents(str(folder), "search")}
    assert apart or {document.name for document in texts.validation} <= search


def test_the_embedded_text_is_dealt_by_modules() -> None:
    trained, validation, reported = parts(healing_texts("embedded"))
    assert validation == held_out_documents("search") and reported == held_out_documents("evaluation")
    held_out = {document.name for split in SPLITS for document in held_out_documents(split)}
    assert not held_out & {document.name for document in trained}
    assert sum(len(document.text) for document in trained) > 2_000_000


def test_a_copy_of_a_held_out_module_is_not_trained_on(tmp_path: Path) -> None:
    """Under another name, in a standard library that has few modules; and without any, our own source."""
    held_out = held_out_documents("evaluation")[0].text
    (tmp_path / "argparse.py").write_text(held_out, encoding="utf-8")
    (tmp_path / "vendored.py").write_text(f"# a copy\n{held_out}", encoding="utf-8")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n" * 200)
    own = "".join(f"def a_function_of_its_own_{index}(argument): ...\n" for index in range(20))
    (tmp_path / "own.py").write_text(own, encoding="utf-8")
    assert training_documents(tmp_path) == [Document("stdlib:own.py", own)]
    nowhere = tmp_path / "nowhere"
    fallback = {document.name for document in training_documents(nowhere)}
    assert "gqasearch:fitness.py" in fallback
    assert not fallback & {document.name for split in SPLITS for document in held_out_documents(split, nowhere)}


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_what_is_reported_on_is_what_evaluate_reports_on(tmp_path: Path, suffix: str) -> None:
    path, other = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for file in (path, other):
        lines = [f"{file.name} line {index}" for index in range(50)]
        if suffix == ".jsonl":
            jsonl(file, lines)
        else:
            file.write_text("\n".join(lines), encoding="utf-8")
    assert list(healing_texts(str(path)).reported) == load_documents(str(path), "evaluation")
    texts = healing_texts(str(path), str(other))
    assert list(texts.reported) == load_whole(str(other))
    assert joined([*texts.trained, *texts.validation]) == joined(load_whole(str(path)))
    assert texts.reported.source == f"{other}, whole"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])  # written anew each time
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=20).filter(lambda text: text.strip()),
    lone=st.booleans(),
)
def test_the_parts_are_those_of_the_text_read_at_once(text: str, lone: bool, tmp_path: Path) -> None:
    """Of a .txt, and of a .jsonl with one record, which is cut likewise; with every line separator of Unicode."""
    path = tmp_path / ("a.jsonl" if lone else "a.txt")
    content = json.dumps({"text": text}, ensure_ascii=False) if lone else text
    path.write_bytes(content.encode())
    stop = int(0.7 * len(text))
    cut = stop - max(1, int(0.05 * len(text)))
    expected = [text[:cut], text[cut:stop], text[stop:]]
    if not all(part.strip() for part in expected):
        with pytest.raises(UserError, match="too short"):
            parts(healing_texts(str(path)))
        return
    found = parts(healing_texts(str(path)))
    assert [joined(part) for part in found] == expected
    assert found[2] == load_documents(str(path), "evaluation")


def test_files_read_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces end where lines end, and lines longer than a piece are cut; line ends of Windows are one character."""
    monkeypatch.setattr(text_module, "PIECE", 7)
    path = tmp_path / "a.txt"
    path.write_bytes(b"".join(b"x" * size + b"\r\n" for size in (3, 30, 0, 5, 6, 7, 14, 2, 50)))
    documents = list(healing_texts(str(path)).trained)
    whole = load_whole(str(path))[0].text
    assert joined(documents) == whole[: int(0.7 * len(whole)) - int(0.05 * len(whole))]
    assert max(len(document.text) for document in documents) < 14
    assert all("\n" not in document.text or document.text.endswith("\n") for document in documents)


def test_a_large_file_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"{'word ' * 20}\n" * 100_000, encoding="utf-8")  # 10 MB
    tracemalloc.start()
    texts = healing_texts(str(path))
    assert sum(len(document.text) for document in texts.trained) > 6_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "  \n", "a.txt is empty"),
        ("a.jsonl", "\n\n", "a.jsonl is empty"),
        ("a.jsonl", '{"text": " "}', "a.jsonl is empty"),
        ("a.txt", b"\xff\xfe\xfa", "is not UTF-8"),
        ("a.jsonl", b'{"text": "\xff"}', "is not UTF-8"),
        ("a.md", "text", "expected a .txt or .jsonl file, got '.md'"),
        ("a.jsonl", '{"text": "a"}\n\n{"txt": 1}\n', "line 3: expected an object with a string field 'text'"),
        ("a.jsonl", '{"text": "a"}\n{', "line 2: not valid JSON"),
        ("a.txt", "ab", "nothing is left for one of training, validation, reporting"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"}\n', "nothing is left for one of training, validation, reporting"),
    ],
)
def test_bad_text_is_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        healing_texts(str(path))


def test_missing_text_and_small_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file or folder\. Give 'embedded'"):
        healing_texts(str(tmp_path / "none.txt"))
    folder = tmp_path / "folder"
    folder.mkdir()
    other = text_file(tmp_path)
    for count, apart, needed in ((0, True, 2), (1, True, 2), (2, False, 3)):
        (folder / f"{count}.txt").write_text("text", encoding="utf-8")
        if count == 0:
            (folder / "0.txt").unlink()
        with pytest.raises(UserError, match=f"needs at least {needed} .txt or .jsonl files, has "):
            healing_texts(str(folder), str(other) if apart else None)


def test_texts_that_share_files_are_refused(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    (tmp_path / "below").mkdir()
    for text, other in ((path, tmp_path / "below" / ".." / path.name), (tmp_path, path), (path, tmp_path)):
        with pytest.raises(UserError, match="share files"):
            healing_texts(str(text), str(other))


def test_a_copy_of_the_text_is_refused(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copyfile(path, folder / "b.txt")
    (folder / "a.txt").write_text("another", encoding="utf-8")
    for text, other in ((path, folder / "b.txt"), (path, folder), (folder, path)):
        with pytest.raises(UserError, match="is a copy of"):
            healing_texts(str(text), str(other))
    healing_texts(str(path), str(folder / "a.txt"))
