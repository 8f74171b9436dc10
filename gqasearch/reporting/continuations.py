"""What parent and converted model write side by side, and how both use a long context: for terminal and page alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gqasearch.reporting.numbers import number_text
from gqasearch.reporting.text_table import TextTable


@dataclass(frozen=True)
class Sample:
    """Two continuations of ``prompt``, and what they begin with alike; ``how``: greedy or sampled."""

    prompt: str
    how: str
    alike: str
    parent: str
    converted: str
    same: str


@dataclass(frozen=True)
class Generated:
    """All that ``evaluate --generate`` found. ``note``: how the texts were made."""

    samples: tuple[Sample, ...]
    tables: tuple[TextTable, ...]
    note: str


def generated(record: Mapping[str, Any]) -> Generated:
    """From what ``evaluate --generate --json`` prints."""
    return Generated(tuple(map(_sample, record["samples"])), (_positions(record), *_needles(record)), _note(record))


def samples_table(found: Generated) -> Table:
    """The texts for a terminal, both models side by side; what is not alike is bold."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column("", overflow="fold", width=9)
    for name in ("parent", "converted"):
        table.add_column(name, overflow="fold", ratio=1)
    before = None
    for sample in found.samples:
        if sample.prompt != before:
            table.add_section()
            table.add_row("prompt", *[Text(sample.prompt, style="dim")] * 2)
            before = sample.prompt
        texts = (Text.assemble(sample.alike, (own, "bold")) for own in (sample.parent, sample.converted))
        table.add_row(Text(f"{sample.how}\n{sample.same}"), *texts)
    return table


def _sample(record: Mapping[str, Any]) -> Sample:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(record["parent"], record["converted"], strict=False))
    alike = "".join(own for own, _ in pairs)
    most = max(record["tokens"])
    same = "the same" if record["parent"] == record["converted"] else f"first {record['same_tokens']} of {most}"
    own, converted = (record[name][len(alike) :] for name in ("parent", "converted"))
    return Sample(record["prompt"], record["how"], alike, own, converted, same)


def _positions(record: Mapping[str, Any]) -> TextTable:
    rows = tuple(
        (
            f"{row['first']} to {row['last']}",
            f"{row['targets']:,}",
            number_text(row["parent_perplexity"], 4),
            number_text(row["perplexity"], 4),
            "0" if row["kl"] == 0 else number_text(row["kl"]),
        )
        for row in record["positions"]
    )
    headers = ("tokens\nbefore", "targets", "parent's\nperplexity", "converted", "KL, nats\nper token")
    return TextTable("Perplexity by position in the block", headers, rows, ())


def _needles(record: Mapping[str, Any]) -> tuple[TextTable, ...]:
    if not record["needles"]:
        return ()
    rows = tuple(
        (f"{row['distance']:,}", str(row["questions"]), f"{row['parent']:.2f}", f"{row['converted']:.2f}")
        for row in record["needles"]
    )
    headers = ("tokens\nback", "questions", "parent", "converted")
    return (TextTable(f"Keys found again, share of questions (chance {1 / record['choices']:.2f})", headers, rows, ()),)


def _note(record: Mapping[str, Any]) -> str:
    return (
        f"At most {record['new_tokens']} new tokens. Sampled: at temperature 1 from the whole vocabulary, seed "
        f"{record['seed']}, with the same noise for both models. Keys: {record['choices']} random keys with values are "
        f"hidden in a held-out text of {record['block_length']} tokens, whose end repeats one key; of the values the "
        f"likeliest is taken for the answer. Text: {record['text'].partition(': ')[0]}."
    )
