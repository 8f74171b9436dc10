"""How text is split before the merges of byte-level BPE, by llama.cpp's names (``tokenizer.ggml.pre``).

Nothing else in a file tells. The patterns are those that the models' own tokenizers have.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Punctuation, Sequence, Split

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = r"[^\r\n\p{L}\p{N}]?"
_LLAMA3 = _ENDINGS + "|" + _WORD + r"\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _ENDINGS + "|" + _WORD + r"\p{L}+|\p{N}" + _REST
_TEKKEN = f"{_WORD}{_UPPER}*{_LOWER}+|{_WORD}{_UPPER}+{_LOWER}*" + r"|\p{N}" + _REST_WITH_SLASH
_GPT4O = (
    f"{_WORD}{_UPPER}*{_LOWER}+{_ENDINGS}?|{_WORD}{_UPPER}+{_LOWER}*{_ENDINGS}?" + r"|\p{N}{1,3}" + _REST_WITH_SLASH
)


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False)


def _digits_apart() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def _falcon() -> PreTokenizer:
    parts = [Punctuation("contiguous"), ByteLevel(add_prefix_space=False), Digits(individual_digits=False)]
    return Sequence([*parts, Split(Regex("[0-9][0-9][0-9]"), "isolated")])


def _deepseek_coder() -> PreTokenizer:
    patterns = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")
    splits = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return Sequence([*splits, Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=False)])


def _by(pattern: str) -> Callable[[], PreTokenizer]:
    return lambda: Sequence(
        [Split(Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)],
    )


SPLITS: dict[str, Callable[[], PreTokenizer]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "exaone4", "jais"), _gpt2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _digits_apart),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"), _by(_LLAMA3)),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "megrez"), _by(_QWEN2)),
    "tekken": _by(_TEKKEN),
    "gpt-4o": _by(_GPT4O),
    "falcon": _falcon,
    "deepseek-coder": _deepseek_coder,
}
# Characters that may be written in several ways are first written in one.
COMPOSED = frozenset({"qwen2"})
# A piece of text that is a token stays whole, whatever the merges say.
WHOLE_FIRST = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"})
# Texts begin with the first token where the file does not say whether they do.
BEGINS = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"})
