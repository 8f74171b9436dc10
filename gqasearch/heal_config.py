"""Every setting of a healing run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from gqasearch.settings import Settings, checked

LossName = Literal["kl", "language-model"]
TrainedPart = Literal["all", "attention", "lora"]
LORA_RANK = 16


class HealConfig(Settings):
    """Everything that decides a healed model."""

    model: str = Field(description="the converted checkpoint's folder, or its run folder")
    parent: str = Field("embedded", description="the unconverted model that it is taught by and compared with")
    revision: str | None = Field(None, description="hub revision of the parent")
    text: str = Field("embedded", description="'embedded', FILE.txt, FILE.jsonl or a folder of them, cut into parts")
    evaluation_text: str | None = Field(
        None, description="other text to report on, whole [default: the held-out part of the text]"
    )
    steps: int = Field(300, ge=1, description="optimiser steps")
    loss: LossName = Field("kl", description="kl: the parent's predictions are the target; language-model: the text is")
    attention_weight: float = Field(
        0.0, ge=0, description="weight of the error of every layer's attention output against the parent's"
    )
    train: TrainedPart = Field(
        "all", description="what is trained: all, attention, or lora on attention, merged at the end"
    )
    lora_rank: int | None = Field(None, ge=1, description=f"rank of lora [default: {LORA_RANK}]")
    progressive: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which heads move from their own K and V to the shared one"
    )
    learning_rate: float = Field(1e-4, gt=0, description="AdamW's largest; cosine to zero after a warm-up")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's")
    gradient_norm: float = Field(1.0, ge=0, description="longer gradients are scaled down to it; 0: never")
    batch_blocks: int = Field(8, ge=1, description="blocks of one step, over all processes")
    pass_blocks: int | None = Field(
        None,
        ge=1,
        description="blocks per forward pass; a step adds up the gradients of several [default: all at once]",
    )
    block_length: int = Field(256, ge=4, description="tokens per block")
    evaluate_every: int = Field(
        50, ge=1, description="steps between measurements, after each of which a kill loses nothing"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many measurements without a better KL, and keep the best weights"
    )
    validation_tokens: int = Field(16384, ge=2, description="tokens that measurements between steps are made on")
    evaluation_tokens: int = Field(65536, ge=2, description="held-out tokens that results are reported on")
    parent_top_k: int | None = Field(
        None, ge=1, description="run the parent once, before: its likeliest tokens go to disk, it leaves the memory"
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of forward passes; weights are float32")
    gradient_checkpointing: bool = Field(False, description="less memory, a third slower")
    device: str = Field("cpu", description="cpu, cuda, mps; another GPU by CUDA_VISIBLE_DEVICES")
    seed: int = Field(0, ge=0, description="decides the order of the text")

    @model_validator(mode="after")
    def _check(self) -> HealConfig:
        if self.device.startswith("cuda:") and self.device != "cuda:0":
            number = self.device.removeprefix("cuda:")
            raise ValueError(
                f"device {self.device}: training takes the first GPU that it sees; set CUDA_VISIBLE_DEVICES={number} "
                "and give device cuda"
            )
        if self.lora_rank is not None and self.train != "lora":
            raise ValueError(f"lora_rank has no effect with train {self.train}")
        if self.attention_weight and (self.loss != "kl" or self.parent_top_k is not None):
            raise ValueError("attention_weight needs the parent at every step: loss kl, and no parent_top_k")
        if self.parent_top_k is not None and self.loss != "kl":
            raise ValueError(f"parent_top_k has no effect with loss {self.loss}")
        if self.progressive and self.train == "lora":
            raise ValueError("progressive trains the weights of attention themselves; use train all or attention")
        if self.progressive and (self.attention_weight or self.parent_top_k is not None):
            raise ValueError("progressive runs the parent's own code; leave attention_weight and parent_top_k out")
        if self.progressive and self.gradient_checkpointing:
            raise ValueError("progressive makes its weights anew in every pass; leave gradient_checkpointing out")
        if self.evaluation_text is not None and self.evaluation_text == self.text:
            raise ValueError(f"text and evaluation_text are both {self.text}: report on text that is not trained on")
        if self.pass_blocks is not None and self.batch_blocks % self.pass_blocks:
            raise ValueError(f"pass_blocks {self.pass_blocks} does not divide batch_blocks {self.batch_blocks}")
        return self

    @property
    def wanted_blocks(self) -> int:
        """Blocks that all steps train on, repeats counted."""
        return self.steps * self.batch_blocks

    @property
    def moving_steps(self) -> float:
        """Steps in which heads move; 0 where they do not."""
        return self.progressive * self.steps

    @property
    def tokens_per_step(self) -> int:
        return self.batch_blocks * self.block_length


def build_heal_config(values: dict[str, Any]) -> HealConfig:
    """A checked configuration; the first thing wrong becomes a ``UserError``."""
    return checked(HealConfig, values)
