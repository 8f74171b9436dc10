"""Text to train on: documents one after another, cut into full blocks, on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gqasearch.calibration import no_progress
from gqasearch.calibration.blocks import block_frame, check_known, too_short
from gqasearch.calibration.pieces import WHOLE, TokenReader
from gqasearch.embedded import Document
from gqasearch.errors import UserError
from gqasearch.files import new_file, read_json, remove_abandoned, write_file
from gqasearch.models import Objective

FORMAT = 1  # raise when the same text would be packed otherwise: older files are then packed anew
BATCH = 2**18  # characters that are tokenised at a time, by as many threads as the tokenizer has


@dataclass(frozen=True)
class PackedBlocks:
    """Full blocks without padding. ``ids`` (N, T) int32, on disk.

    ``source``: the text in words; ``bytes_per_token``: UTF-8 bytes of the text over its tokens; ``fingerprint``:
    ``sha256:...`` of the ids.
    """

    ids: NDArray[np.int32]
    source: str
    bytes_per_token: float
    fingerprint: str

    @property
    def tokens(self) -> int:
        """Tokens of all blocks."""
        return int(self.ids.size)

    def blocks(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """The blocks of these numbers, (n, T) int64."""
        return torch.from_numpy(self.ids[np.asarray(indices, dtype=np.int64)].astype(np.int64))


def pack(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    max_blocks: int,
    path: Path,
    source: str,
    objective: Objective = "next-token",
    vocabulary: int | None = None,
    progress: Callable[[int, int], None] = no_progress,
) -> PackedBlocks:
    """Write the first ``max_blocks`` blocks of ``length`` tokens to ``path`` (.npy), or as many as the documents fill.

    Documents are joined by the tokenizer's EOS token, if it has one, and run on over the ends of blocks; every block
    begins with BOS, or stands between CLS and SEP for a model that predicts masked tokens. No more documents are
    read than are needed, and none is kept in memory. Masks are not set here. ``vocabulary``: how many tokens the model
    has embeddings of. ``progress`` is told the blocks written and ``max_blocks``.

    The file appears when it is complete, with a .json beside it that says what was packed. Where both are there and
    fit these arguments, the file is used and no document is read; any other file at ``path`` is replaced. Raises
    ``UserError`` when the text does not fill one block, or has tokens that the model does not know.
    """
    before, after, body = block_frame(tokenizer, objective, length)
    settings = {
        "format": FORMAT,
        "length": length,
        "max_blocks": max_blocks,
        "source": source,
        "objective": objective,
        "tokenizer": _tokenizer_fingerprint(tokenizer),
    }
    if (found := _existing(path, settings)) is not None:
        return found
    record = path.with_suffix(".json")
    record.unlink(missing_ok=True)  # first: it must never stand beside blocks that are not the ones it describes
    remove_abandoned(path)
    stream = _TokenStream(documents, tokenizer)
    with new_file(path, overwrite=True) as file:
        blocks = _known(_framed(_bodies(stream, body), before, after), tokenizer, vocabulary)
        if not _write(file, blocks, length, max_blocks, progress):
            raise too_short(source, stream.tokens, length)
    ids = _open(path)
    packed = PackedBlocks(ids, source, stream.size / stream.tokens, _fingerprint(ids))
    described = {"bytes_per_token": packed.bytes_per_token, "fingerprint": packed.fingerprint, "blocks": len(ids)}
    write_file(record, json.dumps({"settings": settings, **described}, indent=1) + "\n")
    return packed


def training_order(num_blocks: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``wanted`` numbers of blocks in random order, (wanted,): every block once before any twice, and so on."""
    epochs = [rng.permutation(num_blocks) for _ in range(-(-wanted // num_blocks))]
    return np.concatenate([np.empty(0, dtype=np.int64), *epochs])[:wanted]


@dataclass
class _TokenStream:
    """The tokens of documents, in order, EOS between them; counts ``tokens`` and ``size`` (bytes) of the text read."""

    documents: Iterable[Document]
    tokenizer: PreTrainedTokenizerBase
    tokens: int = 0
    size: int = 0

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        end = self.tokenizer.eos_token_id
        separator = np.array([] if end is None else [end], dtype=np.int32)
        for batch in _batches(self.documents):
            for document, parts in zip(batch, self._read(batch), strict=True):
                if self.tokens and not document.continues:
                    yield separator
                self.size += len(document.text.encode())
                for ids in parts:
                    self.tokens += len(ids)
                    yield np.array(ids, dtype=np.int32)

    def _read(self, batch: list[Document]) -> Iterator[Iterable[list[int]]]:
        """The ids of every document, in parts."""
        if len(batch) == 1 and len(batch[0].text) > WHOLE:
            yield TokenReader(self.tokenizer).read(batch[0])
        else:
            yield from ([ids] for ids in self._encode(batch))

    def _encode(self, batch: list[Document]) -> list[list[int]]:
        # verbose=False: the warning that a text is longer than the context is the reason it is cut
        encoded = self.tokenizer(
            [document.text for document in batch],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(encoded["input_ids"])


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        if len(document.text) > WHOLE:  # by itself: it is tokenised a piece at a time
            if batch:
                yield batch
            yield [document]
            batch, size = [], 0
            continue
        batch.append(document)
        size += len(document.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bodies(tokens: Iterable[NDArray[np.int32]], body: int) -> Iterator[NDArray[np.int32]]:
    """What stands between the ends of blocks, (n, body) as soon as n blocks are full; a rest at the end is dropped."""
    rest = np.empty(0, dtype=np.int32)
    for more in tokens:
        rest = np.concatenate([rest, more])
        full = len(rest) // body * body
        if full:
            yield rest[:full].reshape(-1, body)
            rest = rest[full:]


def _framed(bodies: Iterable[NDArray[np.int32]], before: list[int], after: list[int]) -> Iterator[NDArray[np.int32]]:
    for rows in bodies:
        first, last = (np.tile(np.array(end, dtype=np.int32), (len(rows), 1)) for end in (before, after))
        yield np.concatenate([first, rows, last], axis=1)


def _known(
    blocks: Iterable[NDArray[np.int32]], tokenizer: PreTrainedTokenizerBase, vocabulary: int | None
) -> Iterator[NDArray[np.int32]]:
    for rows in blocks:
        check_known(rows, tokenizer, vocabulary)
        yield rows


def _write(
    file: BinaryIO, blocks: Iterable[NDArray[np.int32]], length: int, limit: int, progress: Callable[[int, int], None]
) -> int:
    """Write an .npy of at most ``limit`` blocks as they come; their number."""
    count = 0
    _write_header(file, count, length)
    for rows in blocks:
        rows = rows[: limit - count]
        file.write(rows.astype("<i4").tobytes())
        count += len(rows)
        progress(count, limit)
        if count >= limit:
            break
    file.seek(0)
    _write_header(file, count, length)  # as long as the first: numpy leaves room for the digits of a growing axis
    return count


def _write_header(file: BinaryIO, count: int, length: int) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": (count, length)})


def _existing(path: Path, settings: dict[str, Any]) -> PackedBlocks | None:
    """What ``path`` holds, if it was packed with these settings and is whole."""
    with suppress(UserError, OSError, ValueError):  # not there, not to be read, or no .npy: packed anew
        described = read_json(path.with_suffix(".json"))
        if described.get("settings") == settings:
            ids = _open(path)
            if _fingerprint(ids) == described["fingerprint"]:
                return PackedBlocks(ids, settings["source"], described["bytes_per_token"], described["fingerprint"])
    return None


def _open(path: Path) -> NDArray[np.int32]:
    ids: NDArray[np.int32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return ids


def _fingerprint(ids: NDArray[np.int32]) -> str:
    digest = hashlib.sha256(f"{ids.shape}|{ids.dtype.str}|".encode())
    for start in range(0, len(ids), 1024):
        digest.update(ids[start : start + 1024].tobytes())
    return f"sha256:{digest.hexdigest()}"


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """``sha256:...`` of all that decides the ids of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        definition = {"vocabulary": tokenizer.get_vocab()}
    else:  # without what the call before left there
        definition = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    return f"sha256:{hashlib.sha256(json.dumps([definition, ends], sort_keys=True).encode()).hexdigest()}"
