"""The tokenizer of a converted checkpoint gives what its source's gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from gqasearch.checkpoints.remote_code import runs_own_code
from gqasearch.errors import UserError
from gqasearch.files import read_json
from gqasearch.models.companions import has_tokenizer
from gqasearch.models.loading import load_tokenizer
from gqasearch.models.sample_text import SAMPLE

# Names that both versions of transformers know.
IN_VERSION_4 = {"TokenizersBackend": "PreTrainedTokenizerFast"}


def keep_tokenizer(source: Path, folder: Path) -> None:
    """See to it that transformers loads from ``folder``, a copy of ``source``, the tokenizer that it loads from there.

    It chooses a class by ``model_type`` too, which a layout may change: the class is then named in
    ``tokenizer_config.json``. Raises ``UserError`` where the tokenizer is another still, as for a file that was not
    copied. Nothing is said of a source that has none, or one that transformers cannot load.
    """
    if not has_tokenizer(source):
        return
    try:
        wanted = load_tokenizer(source)
    except UserError:
        return
    found = _loaded(folder)
    if type(found) is not type(wanted):
        _name_class(folder, type(wanted).__name__)
        found = _loaded(folder)
    if differs := _differences(found, wanted):
        raise UserError(
            f"the tokenizer that transformers loads from the converted checkpoint ({type(found).__name__}) is not that "
            f"of {source} ({type(wanted).__name__}): {', '.join(differs)} differ. No checkpoint was written"
        )


def _loaded(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder, trust_remote_code=runs_own_code(folder))


def _differences(found: PreTrainedTokenizerBase, wanted: PreTrainedTokenizerBase) -> list[str]:
    return [what for what, of in _FACTS.items() if of(found) != of(wanted)]


def _name_class(folder: Path, name: str) -> None:
    path = folder / "tokenizer_config.json"
    told = read_json(path) if path.is_file() else {}
    written = {**told, "tokenizer_class": IN_VERSION_4.get(name, name)}
    path.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _ids(tokenizer: PreTrainedTokenizerBase) -> object:
    return tokenizer(SAMPLE, verbose=False)["input_ids"]


_FACTS: dict[str, Callable[[PreTrainedTokenizerBase], object]] = {
    "the tokens of a sample": _ids,
    "the special tokens": lambda tokenizer: tokenizer.special_tokens_map,
    "the chat template": lambda tokenizer: tokenizer.chat_template,
}
