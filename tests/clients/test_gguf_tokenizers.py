"""Tokenizers of GGUF files give what llama.cpp gives, and a tokenizer that splits text otherwise is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from gqasearch.errors import UserError
from gqasearch.models.gguf.file import GgufFile
from gqasearch.models.gguf.splits import SPLITS
from gqasearch.models.gguf.tokenizer import CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, GgufTokenizer
from tests.clients.client import ROOT, Client

LLAMACPP = Client("llamacpp", "llama.cpp", in_suite=True)
BYTE = 6
# One of each way to split.
TRIED = ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o", "falcon", "deepseek-coder")
# llama.cpp tells upper case from lower by the alphabet of ASCII where the models' own pattern does so for all letters.
ASCII_CASES = ("tekken", "gpt-4o")
TEXTS = (
    "Hello, world! It's 2024: don't, WE'LL, I'd've 1234567 3.14159 10,000,000",
    "def f(x):\n\tif x == 10:\n        return [x**2, {'a': x}]  # done\r\n\r\n\n   \n",
    "  two spaces,   three, \t a tab and an end   ",
    "<s>special</s> tokens<|own|>inside",
    "camelCaseWords HTTPServer XMLHttpRequest snake_case kebab-case a/b/c //comment",
    "été naïve Привет, мир! 你好世界 नमस्ते 🙂👍🏽 ١٢٣ ½ Ⅷ",
)
LEARNED_FROM = ("README.md", "CHANGELOG.md", "gqasearch/files.py", "docs/method.md")


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    own = [(ROOT / name).read_text(encoding="utf-8") for name in LEARNED_FROM]
    return [*own, *(TEXTS * 20), " ".join(str(number) for number in range(5000))]


@pytest.fixture(scope="module")
def files(corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> a GGUF file with one small layer, and a vocabulary learned from the corpus as split by that name."""
    home = tmp_path_factory.mktemp("tokenizers")
    made = {name: byte_level(name, corpus, home / f"{name}.gguf") for name in TRIED}
    return made | {
        f"llama, {prefix}": sentencepiece(corpus, home / f"{prefix}.gguf", prefix) for prefix in (True, False)
    }


def byte_level(name: str, corpus: list[str], path: Path) -> Path:
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = SPLITS[name]()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    learned.train_from_iterator(corpus, trainer)
    tokens = [learned.id_to_token(index) for index in range(learned.get_vocab_size())]
    merges = [" ".join(pair) for pair in _model(learned)["merges"]]
    kinds = [CONTROL] * 2 + [NORMAL] * (len(tokens) - 2) + [USER_DEFINED]
    return write(path, "gpt2", [*tokens, "<|own|>"], kinds, {"pre": name, "merges": merges})


def sentencepiece(corpus: list[str], path: Path, prefix: bool) -> Path:
    """The merges' order becomes scores, all that a file of this kind has."""
    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.Replace(" ", SPACE)
    learned.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    # Few single characters: the others are made of bytes.
    trainer = trainers.BpeTrainer(vocab_size=2000, limit_alphabet=90, show_progress=False)
    learned.train_from_iterator(corpus, trainer)
    known = ("<s>", "</s>", "<|own|>")
    own = [learned.id_to_token(index) for index in range(learned.get_vocab_size())]
    own = [token for token in own if token not in known]
    order = {left + right: rank for rank, (left, right) in enumerate(_model(learned)["merges"])}
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *own, "<|own|>"]
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(own) + [USER_DEFINED]
    scores = [float(-order.get(token, -1)) - 1 for token in tokens]
    return write(path, "llama", tokens, kinds, {"scores": scores, "add_space_prefix": prefix})


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return found


def write(path: Path, kind: str, tokens: list[str], kinds: list[int], more: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32}
    for name, value in {**sizes, "attention.head_count": 1}.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    adders = {"pre": writer.add_tokenizer_pre, "merges": writer.add_token_merges, "scores": writer.add_token_scores}
    for name, value in more.items():
        adders.get(name, writer.add_add_space_prefix)(value)
    writer.add_bos_token_id(tokens.index("<s>"))
    writer.add_eos_token_id(tokens.index("</s>"))
    zeros = {"token_embd": (len(tokens), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    square = (*(f"blk.0.attn_{role}" for role in ("q", "k", "v", "output")), *(f"blk.0.ffn_{role}" for role in FFN))
    for name, shape in {**zeros, **dict.fromkeys(square, (32, 32))}.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


FFN = ("gate", "up", "down")


def test_tokens_are_llama_cpps(files: dict[str, Path], tmp_path: Path) -> None:
    requests = [{"model": str(path), "texts": TEXTS} for path in files.values()]
    answers = LLAMACPP.run("tokenize_texts.py", requests, tmp_path).result
    for (name, path), theirs in zip(files.items(), answers, strict=True):
        ours = GgufTokenizer(GgufFile(path), 10**6).tokenizer
        for text, wanted in zip(TEXTS, theirs, strict=True):
            if name in ASCII_CASES and not text.isascii():
                continue
            found = ours.encode(text).ids
            assert found == wanted, (name, text, [ours.id_to_token(index) for index in found])


@pytest.mark.parametrize(
    ("learned", "read"), [("gpt-2", "smollm"), ("llama-bpe", "gpt-2"), ("qwen2", "falcon"), ("smollm", "tekken")]
)
def test_another_split_is_noticed(learned: str, read: str, files: dict[str, Path], tmp_path: Path) -> None:
    """Tokens that were learned within pieces of one kind fall apart where text is cut into others."""
    tokenizer = GgufTokenizer(GgufFile(files[learned]), 10**6)
    made = tokenizer.tokenizer
    made.pre_tokenizer = SPLITS[read]()
    with pytest.raises(UserError, match="does not give its own tokens back"):
        tokenizer._require_returning(made)
