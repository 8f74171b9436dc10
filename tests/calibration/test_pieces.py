"""A text tokenised a piece at a time has the ids of the whole, whatever the tokenizer, and costs what is read of it."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import islice

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gqasearch.calibration import make_blocks, pieces
from gqasearch.calibration.pieces import TokenReader
from gqasearch.embedded import Document
from tests.samples import random_text
from tests.tiny_models import tiny_tokenizer

SYLLABLES = ("ka", "to", "mi", "re", "lon", "ba", "é", "ß", "世", "界", "ing", "1", "23", "x", "e\u0301", "ﬁ")
LENGTH = 12_000


def words(rng: random.Random) -> str:
    """Of a few syllables, with all kinds of white space between them."""
    made: list[str] = []
    for _ in range(LENGTH // 4):
        made.append(rng.choice(SYLLABLES))
        made += rng.choice(["", "", " ", " ", "  ", "\n", "\n\n   ", ", ", "'s "])
    return "".join(made)


def no_spaces(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(LENGTH // 2))


def with_long_runs(rng: random.Random) -> str:
    """One character hundreds of times, as in ruled lines and blank pages."""
    return "".join(rng.choice(["=", " ", "\n", "a", "7"]) * rng.choice([1, 3, 700]) + "ba to" for _ in range(60))


def with_special_tokens(rng: random.Random) -> str:
    return "".join(rng.choice([*SYLLABLES, " ", "</s>", "<unk>"]) for _ in range(LENGTH // 2))


TEXTS: tuple[Callable[[random.Random], str], ...] = (words, no_spaces, with_long_runs, with_special_tokens)
GPT4 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def unigrams(special: list[str]) -> list[tuple[str, float]]:
    """Pieces of a few syllables with scores of their own. Not trained: a trainer was seen to give others once."""
    parts = [unicodedata.normalize("NFKC", part) for part in (*SYLLABLES, "▁", ",", "'s")]
    pieces_ = {*parts, *"".join(parts), *(one + other for one in parts for other in parts[:9])}
    rng = random.Random(3)
    return [*((name, 0.0) for name in special), *((piece, -2 - 6 * rng.random()) for piece in sorted(pieces_))]


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>"]
    corpus = [text(random.Random(seed)) for text in (words, no_spaces) for seed in range(2)]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "bytes")
    bpe = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trainer: trainers.Trainer = bpe
    if kind in ("bytes", "gpt4", "bytes, no words"):
        made = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(GPT4), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level]) if kind == "gpt4" else byte_level
    elif kind == "llama":  # SentencePiece's BPE as its converter writes it: one word, however long
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False, max_token_length=12)
        corpus = [line for text in corpus for line in text.split()]
    elif kind == "unigram":
        made = Tokenizer(models.Unigram(unigrams(special), unk_id=0))
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    made.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["bytes", "gpt4", "bytes, no words", "llama", "unigram", "wordpiece", "wordlevel"])
def test_pieces_have_the_ids_of_the_whole(
    kind: str, text: Callable[[random.Random], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "WHOLE", 1000)
    monkeypatch.setattr(pieces, "PIECE", 701)
    monkeypatch.setattr(pieces, "OVERLAP", 300)
    monkeypatch.setattr(pieces, "AGREED", 6)
    whole = text(random.Random(7))
    expected = tokenizer(kind)(whole, add_special_tokens=False)["input_ids"]
    found = list(TokenReader(tokenizer(kind)).read(Document("a", whole)))
    assert [token for piece in found for token in piece] == expected
    if kind in ("bytes", "unigram") and text is not with_long_runs:
        assert len(found) > 5  # it was in pieces


def test_no_more_is_tokenised_than_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a line of 3 MB, a few blocks cost a few pieces."""
    line = random_text(3000).replace("\n", " ") * 1000
    reader = TokenReader(tiny_tokenizer())
    assert sum(map(len, islice(reader.read(Document("a", line)), 1))) > 10_000
    assert reader.size < 5 * pieces.PIECE
    blocks = make_blocks([Document("a", line)], tiny_tokenizer(), 64, 1000, "test")
    assert tiny_tokenizer().decode(blocks.ids[:, 1:].flatten()) == line[: 63 * len(blocks.ids)]
    assert blocks.bytes_per_token == 1.0


def test_documents_are_opened_as_they_are_needed() -> None:
    def documents():  # type: ignore[no-untyped-def]
        for index in range(5):
            yield Document(str(index), random_text(500, index))
        raise AssertionError("one too many was read")

    assert len(make_blocks(documents(), tiny_tokenizer(), 32, 100, "test").ids) == 4
