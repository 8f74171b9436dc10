"""The model that is searched, with the text that it is searched on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gqasearch.api.python_words import python_words
from gqasearch.api.scratch import scratch_folder
from gqasearch.calibration.text import text_path
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.fitness import FitnessContext
from gqasearch.merging import Merge
from gqasearch.models import HeadGeometry, Parent
from gqasearch.refining import Refinement
from gqasearch.steps import ProcessCache, Progress, Workspace
from gqasearch.steps.objects import Objects
from gqasearch.steps.workspace import OtherModel

TEXT_FILE, EMBEDDED = "text.jsonl", "embedded"


@dataclass(frozen=True)
class ParentWithText:
    """A parent and its text; made by ``load``.

    What was once computed of them (statistics, errors of groups) is kept for the next call, and a search after
    another costs little. ``settings``: those of a run that say which model and which text. ``loaded``: the model, where
    it is in memory and in no folder.
    """

    settings: Mapping[str, Any]
    loaded: Parent | None = None
    cache: ProcessCache = field(default_factory=ProcessCache, repr=False, compare=False)

    @property
    def parent(self) -> Parent:
        """The loaded model and where its heads are."""
        return self.workspace({}).parent

    @property
    def model(self) -> PreTrainedModel:
        """The model itself, as transformers has it."""
        return self.parent.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return self.workspace({}).tokenizer

    @property
    def geometry(self) -> HeadGeometry:
        """Numbers of layers and heads, and their sizes. Read from the configuration; no weights are loaded."""
        return self.workspace({}).source.geometry

    def workspace(
        self, settings: Mapping[str, Any], objects: Objects | None = None, progress: Progress | None = None
    ) -> Workspace:
        """What the steps of a run work in. ``settings``: the others, as in a run's configuration.

        Raises ``UserError`` for a setting that there is none of, or a value that it does not take.
        """
        config = build_config({**self.settings, **settings})
        model = None if self.loaded is None else OtherModel.in_memory(self.loaded)
        return Workspace(config, progress, self.cache, objects=objects, model=model)

    @contextmanager
    def in_folder(self) -> Iterator[ParentWithText]:
        """The same with its files: written to a temporary folder, for the block, where the model is in memory only."""
        if self.loaded is None:
            yield self
            return
        with TemporaryDirectory(prefix="gqasearch-parent-") as folder:
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            yield replace(self, settings={**self.settings, "model": folder}, loaded=None, cache=ProcessCache())

    @python_words()
    def context(self, merge: Merge | None = None, refine: Refinement | None = None) -> FitnessContext:
        """What a fitness prepares from; without ``merge`` or ``refine`` those of a search that names none."""
        return self.workspace(*chosen(merge=merge, refine=refine)).context()


def chosen(
    *, merge: Merge | str | None = None, refine: Refinement | str | None = None
) -> tuple[dict[str, Any], Objects]:
    """Settings that name these, and the objects themselves where objects were given."""
    settings: dict[str, Any] = {}
    if isinstance(merge, Merge):
        settings |= {"merge": merge.name, "merge_parameters": merge.parameters(), "refine": merge.default_refinement}
    elif merge is not None:
        settings["merge"] = merge
    if isinstance(refine, Refinement):
        settings |= {"refine": refine.name, "refine_parameters": refine.parameters()}
    elif refine is not None:
        settings["refine"] = refine
    return settings, Objects(
        merge=merge if isinstance(merge, Merge) else None,
        refinement=refine if isinstance(refine, Refinement) else None,
    )


@python_words()
def load(
    model: str | Path | PreTrainedModel = "embedded",
    *,
    text: str | Path | Sequence[str] = "embedded",
    evaluation_text: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    **settings: Any,
) -> ParentWithText:
    """The model and the text that a search works on; weights and text are read when they are first needed.

    ``model``: "embedded", a checkpoint's folder, a GGUF file, a hub id, or a model of transformers in memory, which
    keeps its device and dtype, with its ``tokenizer``. ``text``: "embedded", a file (.txt, .jsonl), a folder of them,
    or documents as strings. It is cut into three parts that never overlap: for statistics, for searching, and for what
    is reported on, unless ``evaluation_text`` is that. ``device``, ``dtype``: where and in what the model runs.
    ``settings``: how much of the text is read (``calibration_tokens``, ``search_tokens``, ``evaluation_tokens``,
    ``block_length``, ``batch_blocks``, ``masked_blocks``) and a hub ``revision``.

    Raises ``UserError`` for a setting or value that there is none of, for a model or text that is not there, a model
    that is not supported, and one in memory without a tokenizer. What is in the files is found out when it is read.
    """
    values: dict[str, Any] = {**settings, "device": device, "dtype": dtype}
    if evaluation_text is not None:
        values["evaluation_text"] = str(evaluation_text)
    loaded = None
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise UserError("a model in memory needs the tokenizer that reads its text: give tokenizer, too")
        loaded = Parent.from_model(model, tokenizer)
        values |= {"model": loaded.id, "dtype": str(model.dtype).removeprefix("torch."), "device": str(loaded.device)}
    else:
        values["model"] = str(model)
    cache = ProcessCache()
    if isinstance(text, str | Path):
        values["calibration_text"] = str(text)
    else:
        path = scratch_folder(cache, "gqasearch-text-") / TEXT_FILE
        path.write_text("".join(json.dumps({"text": document}) + "\n" for document in text), encoding="utf-8")
        values["calibration_text"] = str(path)
    for name in ("calibration_text", "evaluation_text"):
        if values.get(name, EMBEDDED) != EMBEDDED:
            text_path(values[name])
    found = ParentWithText(values, loaded, cache)
    found.geometry  # noqa: B018  # for the errors of a model that cannot be searched
    return found
