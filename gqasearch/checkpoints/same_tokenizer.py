"""The tokenizer of a converted checkpoint gives what its source's gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from gqasearch.checkpoints.remote_code import runs_own_code
from gqasearch.errors import UserError
from gqasearch.models.companions import has_tokenizer
from gqasearch.models.loading import load_tokenizer

SAMPLE = (
    "The quick brown fox, 1 234.5 times!  Über naïve cafés; 你好世界 — Привет, мир. नमस्ते\n"
    "def f(x):\n\tif x == 10:\n        return [x**2]  # 🙂 <b>don't</b>\n"
)


def check_tokenizer(source: Path, folder: Path) -> None:
    """Raise ``UserError`` where the tokenizer in ``folder`` is another than that in ``source``.

    It may be for a file that was not copied, or since transformers chooses another class by ``config.json``. Nothing
    is said of a source that has none, or one that transformers cannot load.
    """
    if not has_tokenizer(source):
        return
    try:
        wanted = load_tokenizer(source)
    except UserError:
        return
    found = load_tokenizer(folder, trust_remote_code=runs_own_code(folder))
    differs = [what for what, of in _FACTS.items() if of(found) != of(wanted)]
    if differs:
        raise UserError(
            f"the tokenizer that transformers loads from the converted checkpoint ({type(found).__name__}) is not that "
            f"of {source} ({type(wanted).__name__}): {', '.join(differs)} differ. No checkpoint was written"
        )


def _ids(tokenizer: PreTrainedTokenizerBase) -> object:
    return tokenizer(SAMPLE, verbose=False)["input_ids"]


_FACTS: dict[str, Callable[[PreTrainedTokenizerBase], object]] = {
    "the tokens of a sample": _ids,
    "the special tokens": lambda tokenizer: tokenizer.special_tokens_map,
    "the chat template": lambda tokenizer: tokenizer.chat_template,
}
