"""The layouts of a checkpoint by name: where heads can lie in it, and how it is written. Packages may offer more.

[project.entry-points."gqasearch.layouts"]
my-layout = "my_package:MyLayout"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gqasearch.checkpoints.anymodel import anymodel_config, anymodel_layout, anymodel_obstacle
from gqasearch.checkpoints.conversion import Conversion
from gqasearch.checkpoints.deci import deci_config, deci_layout, deci_obstacle
from gqasearch.checkpoints.layout import Layout
from gqasearch.checkpoints.mimo import AsMimo, mimo_config, mimo_layout, mimo_obstacle
from gqasearch.checkpoints.openelm import AsOpenElm, openelm_config, openelm_layout, openelm_obstacle
from gqasearch.checkpoints.ragged import ragged_config, ragged_layout, stock_obstacle
from gqasearch.checkpoints.stock_layout import stock_layout
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.layout_choice import LAYOUT_GROUP
from gqasearch.models import CheckpointTensors, Config, Family, HeadGeometry, LayerWeights
from gqasearch.registry import Registry
from gqasearch.separate_grouping import AnyGrouping, SeparateGrouping

Takes = Callable[[int], bool]


class Converted(Protocol):
    """What a conversion makes of a source's tensors; see ``Conversion``."""

    @property
    def tensors(self) -> CheckpointTensors: ...
    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    @property
    def stored_dtype(self) -> torch.dtype: ...

    def convert(self, name: str) -> Mapping[str, Tensor]:
        """This tensor, and those that are made together with it."""


@dataclass(frozen=True)
class LayoutForm(ABC):
    """A form of checkpoint. ``name``: how it is asked for; ``reference``: URL; ``summary``: one line for ``gqasearch ls
    layouts``; ``words``: with its article, in messages; ``converts``: what makes the tensors, called as ``Conversion``.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    summary: ClassVar[str]
    words: ClassVar[str] = ""
    converts: ClassVar[Callable[..., Converted]] = Conversion

    @abstractmethod
    def obstacle(self, config: Config) -> str | None:
        """Why a source of this ``config.json`` cannot have it; None where it can."""

    @abstractmethod
    def plan(self, grouping: AnyGrouping, geometry: HeadGeometry, config: Config | None, takes: Takes) -> Layout:
        """Where the heads of this grouping go. ``takes``: whether the architecture can have so many query heads.

        Raises ``UserError`` for a grouping that it has no room for.
        """

    def config(self, grouped: Config, layout: Layout, grouping: AnyGrouping, geometry: HeadGeometry) -> Config:
        """``config.json``, from that of a stock model with as many heads as the layer that has most."""
        return grouped

    def conversion(
        self,
        source: CheckpointTensors,
        family: Family,
        config: Config,
        layout: Layout,
        merged_layer: Callable[[int], LayerWeights],
    ) -> Converted:
        """The tensors under the names that they will have."""
        return self.converts(source, family, config, layout, merged_layer)


def one_partition(grouping: AnyGrouping, name: str) -> Grouping:
    """The grouping; raises ``UserError`` where keys and values were grouped apart."""
    if isinstance(grouping, SeparateGrouping):
        raise UserError(f"layout {name} has no room for keys and values that were grouped apart; use --layout ragged")
    return grouping


@dataclass(frozen=True)
class Stock(LayoutForm):
    """The source's own architecture with fewer KV heads, as many in every layer; padded where groups differ in size."""

    name = "stock"
    reference = "https://arxiv.org/abs/2305.13245"
    summary = "the model's own architecture, one number of KV heads for all layers; padded where group sizes differ"

    def obstacle(self, config: Config) -> str | None:
        return stock_obstacle(config)

    def plan(self, grouping: AnyGrouping, geometry: HeadGeometry, config: Config | None, takes: Takes) -> Layout:
        return stock_layout(one_partition(grouping, self.name), geometry, takes)


@dataclass(frozen=True)
class Deci(LayoutForm):
    """DeciLM: a number of KV heads of its own in every layer, one number of query heads for all."""

    name = "deci"
    reference = "https://huggingface.co/Deci/DeciLM-7B"
    summary = "DeciLM: layers have their own numbers of KV heads, all the same number of query heads"
    words = "a DeciLM"

    def obstacle(self, config: Config) -> str | None:
        return deci_obstacle(config)

    def plan(self, grouping: AnyGrouping, geometry: HeadGeometry, config: Config | None, takes: Takes) -> Layout:
        return deci_layout(one_partition(grouping, self.name), geometry)

    def config(self, grouped: Config, layout: Layout, grouping: AnyGrouping, geometry: HeadGeometry) -> Config:
        return deci_config(grouped, layout)


@dataclass(frozen=True)
class Mimo(LayoutForm):
    """MiMo-V2-Flash: G KV heads in some layers, 2 G in the others, without remote code."""

    name = "mimo"
    reference = "https://huggingface.co/XiaomiMiMo/MiMo-V2-Flash"
    summary = "MiMo-V2-Flash: layers of G and of 2 G KV heads, in the code of engines"
    words = "a MiMo"
    converts = AsMimo

    def obstacle(self, config: Config) -> str | None:
        return mimo_obstacle(config)

    def plan(self, grouping: AnyGrouping, geometry: HeadGeometry, config: Config | None, takes: Takes) -> Layout:
        return mimo_layout(one_partition(grouping, self.name), geometry)

    def config(self, grouped: Config, layout: Layout, grouping: AnyGrouping, geometry: HeadGeometry) -> Config:
        return mimo_config(grouped, layout, geometry)


@dataclass(frozen=True)
class OpenElm(LayoutForm):
    """OpenELM, for MLX-LM: any numbers of KV heads by layer, each layer padded for itself."""

    name = "openelm"
    reference = "https://arxiv.org/abs/2404.14619"
    summary = "OpenELM, for MLX-LM: layers have their own numbers of KV heads and of query heads"
    words = "an OpenELM"
    converts = AsOpenElm

    def obstacle(self, config: Config) -> str | None:
        return openelm_obstacle(config)

    def plan(self, grouping: AnyGrouping, geometry: HeadGeometry, config: Config | None, takes: Takes) -> Layout:
        return openelm_layout(one_partition(grouping, self.name), geometry)

    def config(self, grouped: Config, layout: Layout, grouping: AnyGrouping, geometry: HeadGeometry) -> Config:
        return openelm_config(grouped, layout, geometry)


@dataclass(frozen=True)
class AnyModel(LayoutForm):
    """AnyModel, which no vLLM has yet: a stock decoder whose layers have their own numbers of KV heads."""

    name = "anymodel"
    reference = "https://github.com/vllm-project/vllm/pull/36512"
    summary = "AnyModel, for a vLLM to come (read, not run): layers have their own numbers of KV heads"
    words = "an AnyModel"

    def obstacle(self, config: Config) -> str | None:
        return anymodel_obstacle(config)

    def plan(self, grouping: AnyGrouping, geometry: HeadGeometry, config: Config | None, takes: Takes) -> Layout:
        return anymodel_layout(one_partition(grouping, self.name), geometry, config)

    def config(self, grouped: Config, layout: Layout, grouping: AnyGrouping, geometry: HeadGeometry) -> Config:
        return anymodel_config(grouped, layout)


@dataclass(frozen=True)
class Ragged(LayoutForm):
    """Real heads only, by a modelling file beside the weights."""

    name = "ragged"
    reference = "https://huggingface.co/docs/transformers/custom_models"
    summary = "every layer has groups of its own sizes, no head is added; brings a modelling file"

    def obstacle(self, config: Config) -> str | None:
        return None  # the plan says it, with what the grouping needs

    def plan(self, grouping: AnyGrouping, geometry: HeadGeometry, config: Config | None, takes: Takes) -> Layout:
        return ragged_layout(grouping, geometry, config)

    def config(self, grouped: Config, layout: Layout, grouping: AnyGrouping, geometry: HeadGeometry) -> Config:
        return ragged_config(grouped, layout, grouping, geometry)


LAYOUTS: Registry[LayoutForm] = Registry(
    "layout",
    LAYOUT_GROUP,
    LayoutForm,
    ("name", "reference", "summary"),
    {kind.name: kind for kind in (Stock, Deci, Mimo, OpenElm, AnyModel, Ragged)},
)


def form_of(layout: Layout) -> LayoutForm:
    """The form of a layout; those of stock have names of their own."""
    return LAYOUTS.make("stock" if layout.name in ("stock-symmetric", "stock-padded") else layout.name)
