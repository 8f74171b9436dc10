"""What the steps of a healing run share; each thing is loaded when it is needed first."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gqasearch.calibration import TokenBlocks, make_blocks, shortage
from gqasearch.checkpoints import runs_own_code
from gqasearch.errors import UserError
from gqasearch.evaluation import model_runner
from gqasearch.grouping_document import GroupingDocument, read_grouping
from gqasearch.grouping_fit import check_fits
from gqasearch.heal_config import HealConfig
from gqasearch.healing.packing import PackedBlocks, pack, training_order
from gqasearch.healing.teacher import LiveParent, Teacher, store_parent
from gqasearch.healing.text_split import HealingTexts, TextPart, healing_texts
from gqasearch.healing.training import Student
from gqasearch.healing.training_blocks import Masks, TrainingBlocks
from gqasearch.healing.written_layers import ProgressiveStudent, WrittenLayers
from gqasearch.models import (
    CheckpointTensors,
    Family,
    ModelSource,
    Parent,
    check_device,
    fingerprint,
    identity_of,
    load_parent,
    read_config,
    resolve_model,
)
from gqasearch.models.device import resolve_device
from gqasearch.models.families import known_family
from gqasearch.models.loading import load_model, load_tokenizer
from gqasearch.run.heal.heal_folder import HealFolder
from gqasearch.run.heal.process_group import Ranks
from gqasearch.steps.cut_texts import PER_TOKEN
from gqasearch.steps.progress import Progress

log = logging.getLogger(__name__)

START = "start"  # the checkpoint that is healed, in figures and inputs
# What the start and its parent have in common, whatever was grouped.
COMMON = ("vocab_size", "hidden_size", "num_hidden_layers")

# Tokens that are drawn from however few are trained on, so that short runs and long ones see the same kinds of text.
POOL = 1 << 22


@dataclass
class HealWork:
    """``config`` in ``folder``, by one of the processes ``ranks``."""

    config: HealConfig
    folder: HealFolder
    ranks: Ranks
    progress: Progress

    @property
    def device(self) -> str:
        return self.ranks.device(resolve_device(self.config.device))

    @cached_property
    def source(self) -> ModelSource:
        """The parent's files."""
        return resolve_model(self.config.parent, self.config.revision)

    @cached_property
    def parent(self) -> Parent:
        return load_parent(self.config.parent, revision=self.config.revision, device=self.device, room=sys.maxsize)

    def run_parent(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of the parent, (B, T, V)."""
        return model_runner(self.parent.model)(ids, mask)

    def forget_parent(self) -> None:
        """Let it leave the memory; it is loaded again where it is needed again."""
        self.__dict__.pop("parent", None)

    @cached_property
    def start(self) -> Path:
        """The folder of the checkpoint that is healed: a run's, or the one that is named."""
        path = Path(self.config.model).expanduser()
        return path / "model" if (path / "model").is_dir() else resolve_model(self.config.model).directory

    @property
    def identity(self) -> str:
        """Of the checkpoint that is healed; its ``grouping.json`` says which parent's it is."""
        return identity_of(fingerprint(CheckpointTensors(self.start)), read_config(self.start))

    @cached_property
    def texts(self) -> HealingTexts:
        segment = PER_TOKEN * self.config.block_length
        return healing_texts(self.config.text, self.config.evaluation_text, segment)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.source.directory)

    @cached_property
    def family(self) -> Family:
        """The family whose names the start's tensors have."""
        known = known_family(read_config(self.start))
        return known if known is not None else self.source.family.written_as(self.source.config)[0]

    def check(self) -> None:
        """Fail early on what can be checked without long work."""
        if "," in self.config.device:
            raise UserError(
                f"--device {self.config.device}: each process of a healing trains on one device; see --help"
            )
        if self.source.family.has_images:
            raise UserError(
                f"{self.source.directory} reads images, too, and healing trains text models alone; search --refine "
                "descent fits its text model's layers to the parent's"
            )
        if self.source.family.objective == "hidden-states":
            raise UserError(
                f"{self.source.directory} has no head, and healing trains on what a head predicts; search --refine "
                "descent fits its layers to the parent's"
            )
        self.ranks.check(self.config.device)
        check_device(self.device)
        own, theirs = read_config(self.start), self.source.config
        if own["model_type"] == "openelm":
            raise UserError(
                f"{self.config.model} has layout openelm, whose tensors are others than the parent's: it is not healed."
                " Materialize its grouping with --layout stock, deci, ragged or mimo"
            )
        for name in COMMON:
            if own.get(name) != theirs.get(name):
                raise UserError(
                    f"--model {self.config.model} has {name} {own.get(name)}, its --parent {self.config.parent} has "
                    f"{theirs.get(name)}: it was not made from this parent"
                )
        self._check_grouping()
        limit = self.source.family.context_length(theirs)
        if limit is not None and self.config.block_length > limit:
            raise UserError(f"--block-length {self.config.block_length} is beyond this model's context of {limit}")
        if self.config.parent_top_k is not None and self.source.family.objective == "masked":
            raise UserError("parent_top_k is for models that predict the next token; this one predicts masked ones")
        if self.ranks.leads:
            # For their errors, which are not to come after the training.
            self.validation_blocks, self.reported_blocks  # noqa: B018

    def inputs(self) -> dict[str, str]:
        """Fingerprints of what healing is made from; of what is trained on, the tokens themselves are kept."""
        return {
            "parent": self.source.identity,
            START: self.identity,
            "validation text": self.validation_blocks.fingerprint,
            "reported text": self.reported_blocks.fingerprint,
        }

    @cached_property
    def document(self) -> GroupingDocument | None:
        """The grouping of the start, where it says."""
        path = self.start / "grouping.json"
        return read_grouping(path) if path.is_file() else None

    def _check_grouping(self) -> None:
        if (document := self.document) is not None:
            check_fits(document, self.source.geometry, self.source.fingerprint if document.model.fingerprint else None)

    def load(self, folder: Path) -> PreTrainedModel:
        """A checkpoint in float32; code that it needs is run if it is what this program writes."""
        return load_model(folder, torch.float32, self.device, trust_remote_code=runs_own_code(folder))

    @cached_property
    def validation_blocks(self) -> TokenBlocks:
        """What is measured on between steps."""
        return self._measured_blocks(self.texts.validation, self.config.validation_tokens)

    @cached_property
    def reported_blocks(self) -> TokenBlocks:
        """What results are reported on."""
        return self._measured_blocks(self.texts.reported, self.config.evaluation_tokens)

    def _measured_blocks(self, part: TextPart[Any], tokens: int) -> TokenBlocks:
        family, config = self.source.family, self.source.config
        blocks = make_blocks(
            *(part, self.tokenizer, self.config.block_length, tokens, part.source, family.objective),
            vocabulary=family.vocabulary(config),
            short_length=family.short_length(config),
        )
        if (words := shortage(blocks, tokens)) is not None:
            log.warning("warning: %s", words)
        return blocks

    @cached_property
    def packed(self) -> PackedBlocks:
        """The text that is trained on: packed by the first process, used by all."""
        if not self.ranks.leads:
            self.ranks.wait()
        part, config = self.texts.trained, self.config
        self.folder.states.mkdir(parents=True, exist_ok=True)
        wanted = max(config.wanted_blocks, POOL // config.block_length)
        self.progress.stage("text", total=wanted)
        packed = pack(
            *(part, self.tokenizer, config.block_length, wanted, self.folder.tokens, part.source),
            objective=self.source.family.objective,
            vocabulary=self.source.family.vocabulary(self.source.config),
            progress=lambda done, _: self.progress.update(done),
        )
        if self.ranks.leads:
            self.ranks.wait()
        return packed

    @cached_property
    def data(self) -> TrainingBlocks:
        """The blocks in the order they are trained on."""
        order = training_order(len(self.packed.ids), self.config.wanted_blocks, np.random.default_rng(self.config.seed))
        masks = None
        if self.source.family.objective == "masked":
            token: Any = self.tokenizer.mask_token_id
            masks = Masks(int(token), tuple(self.tokenizer.all_special_ids))
        return TrainingBlocks(self.packed, order, masks)

    def teacher(self) -> Teacher | None:
        """What the loss is taken from; None for the text itself."""
        if self.config.loss == "language-model":
            return None
        if self.config.parent_top_k is None:
            return LiveParent(self.run_parent)
        if not self.ranks.leads:
            self.ranks.wait()
        blocks = np.unique(self.data.order)  # more are packed than short runs read
        self.progress.stage("parent", total=len(blocks))
        stored = store_parent(
            *(self.run_parent, self.data.with_targets, blocks, self.config.parent_top_k, self.folder.parent_top),
            batch_blocks=self.config.batch_blocks,
            progress=lambda done, _: self.progress.update(done),
        )
        if self.ranks.leads:
            self.ranks.wait()
        return stored

    def student(self) -> Student:
        """The start, as it is trained."""
        shape = self.source.geometry
        if self.config.progressive:
            return Student(self.progressive.module, self.source.family, shape.num_layers, shape.head_dim)
        head_dim = shape.head_dim * (self.document.join if self.document else 1)
        return Student(self.load(self.start), self.family, shape.num_layers, head_dim)

    @cached_property
    def progressive(self) -> ProgressiveStudent:
        """The parent on its way to the start."""
        if (document := self.document) is None:
            raise UserError(f"{self.start} has no grouping.json, which progressive needs: it says which heads share")
        start, config = self.load(self.start), read_config(self.start)
        if document.join > 1:
            raise UserError("progressive begins at the parent's heads; those of this checkpoint were joined")
        if document.has_second_reads:
            raise UserError(
                "progressive begins at the parent's heads, each read once; some of this checkpoint read twice"
            )
        layers = WrittenLayers.of(start, config, self.parent, document.grouping)
        return ProgressiveStudent.of(layers, whole=self.config.train == "all")

    def to_write(self, trained: nn.Module) -> nn.Module:
        """What was trained, in the form of the start."""
        return self.progressive.arrived() if self.config.progressive else trained
