"""Texts as people have them: each function writes one into a folder and names it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from tests.samples import random_text


def plain(folder: Path, rng: random.Random) -> Path:
    """Words, with one of several line ends and beginnings."""
    text = random_text(12_000, rng.randrange(1000))
    text = rng.choice((text, text.replace("\n", "\r\n"), text.replace("\n", " "), "\ufeff" + text, text + "\0" * 5))
    return _write(folder / "text.txt", text.encode())


def one_word(folder: Path, rng: random.Random) -> Path:
    """No white space at all."""
    return _write(folder / "text.txt", "".join(rng.choice("abcdefgh漢字🙂") for _ in range(9000)).encode())


def short(folder: Path, rng: random.Random) -> Path:
    """Between nothing and too little."""
    return _write(folder / "text.txt", random_text(rng.choice((0, 1, 10, 60, 200, 1000))).encode())


def lines(folder: Path, rng: random.Random) -> Path:
    """JSON lines, some of which are short, blank, damaged or of another form."""
    kept = [json.dumps({"text": random_text(rng.choice((1, 20, 400)), rng.randrange(1000))}) for _ in range(60)]
    odd = (
        "",
        "  ",
        '{"text": 3}',
        "{}",
        "[]",
        '"text"',
        "{",
        '{"text": "\\ud800"}',
        '{"text": ""}',
        '{"text": "a\\u0000b"}',
        "NaN",
    )
    for _ in range(rng.randrange(3)):
        kept.insert(rng.randrange(len(kept)), rng.choice(odd))
    start = rng.choice(("", "\ufeff"))
    return _write(folder / "text.jsonl", (start + rng.choice(("\n", "\r\n")).join(kept)).encode())


def many_files(folder: Path, rng: random.Random) -> Path:
    """A folder of short documents."""
    target = folder / "texts"
    target.mkdir()
    for number in range(rng.choice((0, 2, 3, 40))):
        _write(target / f"{number:03d}.txt", random_text(rng.choice((0, 30, 500)), number).encode())
    return target


def other_bytes(folder: Path, rng: random.Random) -> Path:
    """Not UTF-8, or under another name."""
    text = random_text(9000)
    name, data = rng.choice(
        (
            ("text.txt", "größe ".encode("latin-1") * 2000),
            ("text.txt", text.encode("utf-16")),
            ("text.md", text.encode()),
        )
    )
    return _write(folder / name, data)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


TEXTS: tuple[Callable[[Path, random.Random], Path], ...] = (plain, one_word, short, lines, many_files, other_bytes)
