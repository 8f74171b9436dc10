"""The tokenizer of a GGUF file, as ``tokenizer.json`` and ``tokenizer_config.json``.

Two kinds are read, by llama.cpp's names: ``gpt2``, byte-level BPE with merges, and ``llama``, SentencePiece's BPE with
scores. Built with the package tokenizers from what the file says, and refused where it says too little: transformers'
own reading (5.23) splits text as GPT-2 does where it does not know the name of a split.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from gqasearch.errors import UserError, nearest
from gqasearch.models.family import Config
from gqasearch.models.gguf.file import GgufFile
from gqasearch.models.gguf.splits import BEGINS, COMPOSED, SPLITS, WHOLE_FIRST

# Kinds of tokens (tokenizer.ggml.token_type).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's
SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
# The share of tokens that their own text must come back as: of tokenizers read rightly all but a few in a thousand do.
RETURNING = 0.98
TRIED = 10_000  # tokens


@dataclass(frozen=True)
class GgufTokenizer:
    """The tokenizer of ``file``, whose model has embeddings of ``vocabulary`` tokens."""

    file: GgufFile
    vocabulary: int

    def _value(self, key: str, default: Any = None) -> Any:
        value = self.file.value(f"tokenizer.ggml.{key}")
        return default if value is None else value

    def _refused(self, what: str) -> UserError:
        return UserError(f"{self.file.path}: its tokenizer {what}")

    @cached_property
    def tokens(self) -> list[str]:
        """Every token's text, by id; raises ``UserError`` unless there is one for each embedding."""
        tokens = self._value("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise self._refused("has no list of tokens (tokenizer.ggml.tokens)")
        if len(tokens) > self.vocabulary:
            raise self._refused(f"has {len(tokens)} tokens, the model embeddings of {self.vocabulary}")
        if len(set(tokens)) < len(tokens):
            twice = next(token for index, token in enumerate(tokens) if token in tokens[:index])
            raise self._refused(f"has the token {twice!r} twice")
        return tokens

    @cached_property
    def kinds(self) -> list[int]:
        """Every token's kind, by id."""
        kinds = self._value("token_type", [NORMAL] * len(self.tokens))
        if not isinstance(kinds, list) or len(kinds) != len(self.tokens):
            raise self._refused("does not say of every token of which kind it is (tokenizer.ggml.token_type)")
        return kinds

    def special_ids(self) -> Config:
        """``bos_token_id`` and the like of ``config.json``; None for those that the file does not name."""
        return {f"{name}_token_id": self._special(key) for name, key in SPECIAL.items() if name != "unk"}

    def _special(self, key: str) -> int | None:
        index = self._value(key)
        if index is not None and (type(index) is not int or not 0 <= index < len(self.tokens)):
            raise self._refused(f"has {len(self.tokens)} tokens, and tokenizer.ggml.{key} = {index!r}")
        return index

    def write(self, folder: Path, config: Config) -> None:
        """Write its files; ``config``: the model's."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        ids = {name: self._special(key) for name, key in SPECIAL.items()}
        told: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": config.get("max_position_embeddings") or config["n_positions"],
            # None, too: a class would add tokens of its own.
            **{f"{name}_token": None if index is None else self.tokens[index] for name, index in ids.items()},
        }
        template = self.file.value("tokenizer.chat_template")
        if isinstance(template, str):
            told["chat_template"] = template
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises ``UserError`` for a kind or a split that is not known, and where the tokens do not come back."""
        kind = self._value("model")
        if kind == "gpt2":
            made = self._byte_level()
        elif kind == "llama":
            made = self._sentencepiece()
        else:
            raise self._refused(f"is of kind {kind!r}; gpt2 (byte-level BPE) and llama (SentencePiece) are read")
        for wanted, special in ((CONTROL, True), (USER_DEFINED, False)):
            found = [text for text, own in zip(self.tokens, self.kinds, strict=True) if own == wanted]
            made.add_tokens([AddedToken(text, normalized=False, special=special) for text in found])
        self._add_ends(made)
        self._require_returning(made)
        return made

    def _byte_level(self) -> Tokenizer:
        pre = self._value("pre")
        if pre not in SPLITS:
            words = nearest(pre, SPLITS) if isinstance(pre, str) else ""
            raise self._refused(f"splits text in a way that is not known (tokenizer.ggml.pre = {pre!r}){words}")
        vocabulary = {token: index for index, token in enumerate(self.tokens)}
        # What is no token is made of no merge, so that one of its parts is never met.
        parts = [merge for merge in map(_parts, self._value("merges", [])) if vocabulary.keys() >= {*merge}]
        for left, right in parts:
            if left + right not in vocabulary:
                raise self._refused(f"makes of {left!r} and {right!r} what is no token")
        made = Tokenizer(models.BPE(vocabulary, parts, ignore_merges=pre in WHOLE_FIRST))
        if pre in COMPOSED:
            made.normalizer = normalizers.NFC()
        made.pre_tokenizer = SPLITS[pre]()
        made.decoder = decoders.ByteLevel()
        return made

    def _sentencepiece(self) -> Tokenizer:
        vocabulary = {token: index for index, token in enumerate(self.tokens)}
        unknown = self._special(SPECIAL["unk"])
        word = self.tokens[self.kinds.index(UNKNOWN)] if unknown is None and UNKNOWN in self.kinds else None
        word = word if unknown is None else self.tokens[unknown]
        made = Tokenizer(models.BPE(vocabulary, self._merges(), unk_token=word, fuse_unk=True, byte_fallback=True))
        begins_with_space = bool(self._value("add_space_prefix", True))
        spaced = [normalizers.Prepend(SPACE)] if begins_with_space else []
        made.normalizer = normalizers.Sequence([*spaced, normalizers.Replace(" ", SPACE)])
        last = [decoders.Strip(" ", 1, 0)] if begins_with_space else []
        made.decoder = decoders.Sequence(
            [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last]
        )
        return made

    def _merges(self) -> list[tuple[str, str]]:
        """SentencePiece joins the two neighbours that make the token of the highest score, again and again: BPE whose
        merges come in the order of what they make, and of several ways to make it, by the ids of the parts.
        """
        scores = self._value("scores")
        if not isinstance(scores, list) or len(scores) != len(self.tokens):
            raise self._refused("has no score for every token (tokenizer.ggml.scores)")
        ids = {token: index for index, token in enumerate(self.tokens) if self.kinds[index] == NORMAL}
        found = []
        for token, index in ids.items():
            for cut in range(1, len(token)):
                left, right = token[:cut], token[cut:]
                if left in ids and right in ids:
                    found.append((-scores[index], index, ids[left], ids[right]))
        return [(self.tokens[left], self.tokens[right]) for *_, left, right in sorted(found)]

    def _add_ends(self, made: Tokenizer) -> None:
        """Texts begin with the first token, or end with the last, where the file says so, or its kind does."""
        begins = self._value("model") == "llama" or self._value("pre") in BEGINS
        bos, eos = (self._special(SPECIAL[name]) for name in ("bos", "eos"))
        first = bos if self._value("add_bos_token", begins) else None
        last = eos if self._value("add_eos_token", False) else None
        before, after = ([] if one is None else [(self.tokens[one], one)] for one in (first, last))
        ends = processors.TemplateProcessing(
            single=[text for text, _ in before] + ["$A"] + [text for text, _ in after],
            pair=[text for text, _ in before] + ["$A", "$B"] + [text for text, _ in after],
            special_tokens=before + after,
        )
        byte_level = [processors.ByteLevel(trim_offsets=False)] if self._value("model") == "gpt2" else []
        made.post_processor = processors.Sequence([*byte_level, ends]) if before or after else _single(byte_level)

    def _require_returning(self, made: Tokenizer) -> None:
        """Merges were learned within the pieces that text is split into: split otherwise, tokens fall apart."""
        wanted = [index for index, kind in enumerate(self.kinds) if kind == NORMAL]
        wanted = wanted[:: 1 + len(wanted) // TRIED]
        if self._value("model") == "llama":
            got = [[piece.id for piece in made.model.tokenize(self.tokens[index])] for index in wanted]
        else:
            texts = {index: _text(self.tokens[index]) for index in wanted}
            wanted = [index for index, text in texts.items() if text]
            encoded = made.encode_batch([texts[index] for index in wanted], add_special_tokens=False)
            got = [one.ids for one in encoded]
        back = sum(ids == [index] for ids, index in zip(got, wanted, strict=True))
        if back < RETURNING * len(wanted):
            raise self._refused(
                f"does not give its own tokens back: the text of {len(wanted) - back} of {len(wanted)} is cut otherwise"
            )


def _single(parts: list[Any]) -> Any:
    return parts[0] if parts else None


def _parts(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _text(token: str) -> str:
    """What a byte-level token stands for; empty where it is no whole text, as a part of a character."""
    try:
        return bytes(_BYTES[character] for character in token).decode()
    except (KeyError, UnicodeDecodeError):
        return ""


def _bytes_of() -> dict[str, int]:
    """Byte-level's characters for bytes: printable ones of Latin-1 stand for themselves, the others for 256 and on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _bytes_of()
