"""Texts of the protocol: WikiText-2 and C4 of a hub, or a file of the same form, and windows of them.

WikiText-2's test lines are joined by empty lines and C4's first 1,100 documents by spaces, tokenised as one, and cut
into windows of 2,048 tokens side by side; what is left over is dropped. C4 counts with its first 256 windows. As the
code of GPTQ (arXiv 2210.17323) and SparseGPT (arXiv 2301.00774) does, and papers since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gqasearch.calibration import TokenBlocks
from gqasearch.calibration.text import load_documents
from gqasearch.errors import UserError
from gqasearch.files import write_file

C4_DOCUMENTS, C4_WINDOWS = 1100, 256
C4_CALIBRATION = 4000  # documents: two fifths are calibration text, several times what is asked for


@dataclass(frozen=True)
class ProtocolText:
    """``calibration``: gives the training text as one string, for ``search`` to calibrate and search on; ``test``: the
    one that is reported on. ``most``: windows that are looked at, all if None.
    """

    name: str
    calibration: Callable[[], str]
    test: Callable[[], str]
    most: int | None = None

    def file(self, folder: Path) -> Path:
        """The calibration text as a file, written once."""
        path = folder / f"{self.name}-calibration.txt"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_file(path, self.calibration())
        return path


def hub_texts() -> dict[str, ProtocolText]:
    """WikiText-2 and C4."""
    return {
        "wikitext-2": ProtocolText("wikitext-2", lambda: _wikitext("train"), lambda: _wikitext("test")),
        "c4": ProtocolText(
            "c4",
            lambda: "\n\n".join(_c4("train", "00000-of-01024", C4_CALIBRATION)),
            lambda: " ".join(_c4("validation", "00000-of-00008", C4_DOCUMENTS)),
            C4_WINDOWS,
        ),
    }


def local_text(path: Path) -> dict[str, ProtocolText]:
    """A .txt or .jsonl file: its first part is calibration text, its last is reported on, as ``search`` cuts it."""

    def part(split: Any) -> str:
        return "\n\n".join(document.text for document in load_documents(str(path), split))

    return {path.stem: ProtocolText(path.stem, lambda: part("calibration"), lambda: part("evaluation"))}


def _wikitext(split: str) -> str:
    return "\n\n".join(_of_hub("Salesforce/wikitext", None, "wikitext-2-raw-v1", split=split))


def _c4(split: str, shard: str, count: int) -> list[str]:
    file = {split: f"en/c4-{split}.{shard}.json.gz"}
    return _of_hub("allenai/c4", count, data_files=file, split=split, streaming=True)


def _of_hub(name: str, count: int | None, *names: str, **options: Any) -> list[str]:
    """The documents of a data set, the first ``count``; raises ``UserError`` where it cannot be had."""
    try:
        from datasets import load_dataset

        return [row["text"] for row in islice(load_dataset(name, *names, **options), count)]
    except Exception as error:  # of packages, networks, hubs
        words = str(error).partition("\n")[0]
        raise UserError(f"{name} cannot be had: {words}. It needs datasets and a hub; or give --text FILE") from error


def windows(tokenizer: PreTrainedTokenizerBase, text: ProtocolText, length: int) -> TokenBlocks:
    """The test text in windows of ``length`` tokens; raises ``UserError`` where it does not fill one.

    It is tokenised as one, so that a BOS token, if there is one, begins the first window alone.
    """
    whole = text.test()
    ids = torch.tensor(tokenizer(whole, verbose=False)["input_ids"], dtype=torch.int64)
    count = len(ids) // length
    if not count:
        raise UserError(f"the test text of {text.name} has {len(ids)} tokens, fewer than a window of {length}")
    rows = ids[: count * length].view(count, length)[: text.most]
    mask = torch.ones_like(rows, dtype=torch.bool)
    return TokenBlocks(rows, mask, f"{text.name}, test", len(whole.encode()) / len(ids))
