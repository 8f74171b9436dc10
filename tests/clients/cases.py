"""Checkpoints in every layout, and what the parent with tied heads says in their place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from gqasearch.checkpoints import write_joined
from gqasearch.embedded import model_directory
from gqasearch.grouping import Grouping
from gqasearch.healing import HealConfig
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import Parent, load_parent, resolve_model
from gqasearch.run.heal import heal
from gqasearch.separate_grouping import AnyGrouping, SeparateGrouping
from tests.checkpoints.convert import reference
from tests.checkpoints.uneven import write
from tests.samples import text_file
from tests.tiny_models import save_checkpoint, tiny_model

# Of log-probabilities, float32 weights and caches: sums of some hundred products in another order.
TOLERANCE = 5e-5
PROMPT_LENGTHS = (2, 5, 13, 24)
NEW_TOKENS = 8
VOCAB = 2048  # of the embedded tokenizer, which the tiny models get too
TINY_VOCAB = VOCAB + 8  # transformers adds tokens to the tokenizer of a Qwen2

LAYOUTS: Mapping[str, LayoutChoice] = {
    "stock-symmetric": "stock",
    "stock-padded": "stock",
    "deci": "deci",
    "ragged": "ragged",
    "mimo": "mimo",
    "openelm": "openelm",
    "anymodel": "anymodel",
}
STOCK = ("stock-symmetric", "stock-padded")  # what needs no code of ours
# What llama.cpp takes for granted: the smaller EXAONE 4 has no windows.
AS_PUBLISHED: Mapping[str, dict[str, Any]] = {
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "qwen3_moe": {"norm_topk_prob": True},
}
# Heads of a group stand apart. 12 heads of 6 layers, and 6 heads of 2.
EMBEDDED = {
    "stock-symmetric": [[0, 1, 2, 3, 1, 2, 3, 0, 2, 3, 0, 1], [0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2, 3]] * 3,
    "stock-padded": [[0, 1, 2, 3, 1, 0, 0, 0, 2, 3, 0, 1], [0, 0, 1, 1, 1, 2, 3, 3, 0, 1, 2, 3]] * 3,
    "deci": [[0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0], [0, 1, 2, 1, 2, 0, 0, 0, 1, 2, 1, 2], [0, 1, 2, 3] * 3] * 2,
    "ragged": [[0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 0, 0, 0, 1, 2, 1, 2]] * 3,
    "mimo": [[0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0], [0, 1, 2, 3, 0, 0, 1, 2, 1, 2, 3, 0]] * 3,
    "openelm": [[0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0], [0, 1, 2, 3, 4, 0, 0, 0, 1, 2, 1, 2]] * 3,
}
TINY = {
    "stock-symmetric": [[0, 1, 2, 1, 2, 0], [0, 0, 1, 2, 2, 1]],
    "stock-padded": [[0, 1, 0, 0, 2, 1], [0, 1, 2, 2, 2, 0]],
    "deci": [[0, 1, 0, 0, 1, 0], [0, 1, 2, 1, 3, 1]],
    "ragged": [[0, 1, 0, 0, 1, 0], [0, 1, 2, 1, 3, 1]],
    "mimo": [[0, 1, 0, 0, 1, 0], [0, 1, 2, 1, 3, 1]],
    "openelm": [[0, 1, 0, 2, 1, 0], [0, 1, 2, 1, 3, 1]],
}


EMBEDDED["anymodel"], TINY["anymodel"] = EMBEDDED["deci"], TINY["deci"]


@dataclass(frozen=True)
class Converted:
    """A checkpoint, and what the parent with tied heads says in its place.

    ``log_probs`` (prompts, V): of the token after every prompt; ``greedy``: tokens after the longest.
    """

    layout: str
    folder: Path
    grouping: Grouping
    prompts: list[list[int]]
    log_probs: NDArray[np.float64]
    greedy: list[int]

    def request(self, path: Path | None = None, **more: Any) -> dict[str, Any]:
        """What every engine's script takes. ``path``: what it loads; the checkpoint if not given."""
        return {
            "model": str(path or self.folder),
            "prompts": self.prompts,
            "new_tokens": NEW_TOKENS,
            "vocab": self.log_probs.shape[1],
            **more,
        }


@dataclass(frozen=True)
class Case:
    """A model's source folder and its conversions, by layout."""

    model: str
    source: Path
    parent: Parent
    converted: dict[str, Converted]


def make_case(model: str, layouts: tuple[str, ...], folder: Path, **fields: Any) -> Case:
    """``model``: ``embedded`` or a family of ``tests.tiny_models``; ``fields``: further ones of its config."""
    source = save_source(model, folder / "source", **fields)
    parent = load_parent(str(source))
    converted = {}
    for layout in layouts:
        grouping = Grouping.from_labels((EMBEDDED if model == "embedded" else TINY)[layout])
        assert write(parent, source, folder / layout, grouping, LAYOUTS[layout]).name == layout
        converted[layout] = _expected(parent, grouping, layout, folder / layout)
    return Case(model, source, parent, converted)


def make_joined_case(layouts: tuple[str, ...], folder: Path) -> tuple[Case, Path]:
    """The embedded model with heads of twice the size, converted, and the folder of the model itself."""
    plain = save_source("embedded", folder / "plain")
    write_joined(resolve_model(str(plain)), 2, folder / "source")
    parent, converted = load_parent(str(folder / "source")), {}
    for layout in layouts:
        grouping = Grouping.from_labels(EMBEDDED[layout])
        assert write(parent, folder / "source", folder / layout, grouping, LAYOUTS[layout]).name == layout
        converted[layout] = _expected(parent, grouping, layout, folder / layout)
    return Case("embedded, heads joined", folder / "source", parent, converted), plain


def make_separate_case(model: str, folder: Path) -> Converted:
    """Keys and values that were grouped apart; the grouping has both partitions of every layer."""
    source = save_source(model, folder / "source")
    parent = load_parent(str(source))
    grouping = SeparateGrouping.from_sides(Grouping.from_labels([*TINY["ragged"], *TINY["stock-padded"]]))
    write(parent, source, folder / "ragged", grouping, "ragged")
    return _expected(parent, grouping, "ragged", folder / "ragged")


def heal_case(case: Case, layout: str) -> Converted:
    """A conversion of ``case`` after a few steps of training, and what transformers' own code says of it."""
    text = text_file(case.source.parent)
    small: dict[str, Any] = {"steps": 4, "batch_blocks": 2, "block_length": 32, "learning_rate": 3e-3}
    few: dict[str, Any] = {"validation_tokens": 100, "evaluation_tokens": 100}
    start = case.converted[layout]
    config = HealConfig(model=str(start.folder), parent=str(case.source), text=str(text), **small, **few)
    folder = heal(config, case.source.parent / f"{layout}-healed").model
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        log_probs = _log_probs(model.eval(), start.prompts)
        longest = torch.tensor([start.prompts[-1]])
        options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
        tokens = model.generate(longest, attention_mask=torch.ones_like(longest), **options)
    assert float(np.abs(log_probs.numpy() - start.log_probs).max()) > 400 * TOLERANCE  # training did something
    greedy = tokens[0, longest.shape[1] :].tolist()
    return Converted(layout, folder, start.grouping, start.prompts, log_probs.numpy(), greedy)


def save_source(model: str, folder: Path, **fields: Any) -> Path:
    """The embedded model, or a tiny one with its vocabulary, and heads of 32, which every engine takes."""
    if model == "embedded":
        return Path(shutil.copytree(model_directory(), folder))
    made = tiny_model(model, vocab=TINY_VOCAB, head_dim=32, **{**AS_PUBLISHED.get(model, {}), **fields})
    save_checkpoint(made, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_directory() / name, folder / name)
    return folder


def _expected(parent: Parent, grouping: AnyGrouping, layout: str, folder: Path) -> Converted:
    """With the first prompts of a series after which no end of a text comes, and no part of a character.

    Servers stop at the one, and give no probabilities of the other.
    """
    tokenizer = Tokenizer.from_file(str(model_directory() / "tokenizer.json"))
    for seed in range(100):
        prompts = _prompts(seed)
        with torch.no_grad(), reference(parent, grouping) as tied:
            log_probs = _log_probs(tied, prompts)
            longest = torch.tensor([prompts[-1]])
            options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
            tokens = tied.generate(longest, attention_mask=torch.ones_like(longest), **options)
        greedy = tokens[0, longest.shape[1] :].tolist()
        said = [*greedy, *log_probs.argmax(-1).tolist()]
        if all(2 <= token < VOCAB and "\ufffd" not in tokenizer.decode([token]) for token in said):
            break
    else:
        raise AssertionError(f"no prompts for {layout}")
    with torch.no_grad():
        own = _log_probs(parent.model, prompts)
    assert float((log_probs - own).abs().max()) > 400 * TOLERANCE  # an engine with the parent's heads would be seen
    sides = grouping.sides if isinstance(grouping, SeparateGrouping) else grouping
    return Converted(layout, folder, sides, prompts, log_probs.numpy(), greedy)


def _prompts(seed: int) -> list[list[int]]:
    drawn = torch.randint(2, VOCAB, (max(PROMPT_LENGTHS) - 1,), generator=torch.Generator().manual_seed(seed))
    return [[0, *drawn[: length - 1].tolist()] for length in PROMPT_LENGTHS]  # 0 begins a text


def _log_probs(model: PreTrainedModel, prompts: list[list[int]]) -> Tensor:
    last = [model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    return torch.stack(last).double().log_softmax(-1)


def difference(result: Mapping[str, Any], expected: Converted) -> float:
    """Largest |difference| of log-probabilities; asserts that it is in tolerance and that greedy tokens agree."""
    got = np.array(result["log_probs"])
    assert got.shape == expected.log_probs.shape
    largest = float(np.abs(got - expected.log_probs).max())
    assert largest <= TOLERANCE
    assert result["greedy"] == expected.greedy
    return largest
