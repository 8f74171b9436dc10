"""Which forms of a checkpoint an engine loads, and what it cannot take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LayoutName = Literal["stock-symmetric", "stock-padded", "deci", "ragged"]
TargetName = Literal["transformers", "vllm", "llama.cpp", "ctranslate2", "any"]


@dataclass(frozen=True)
class Target:
    """An engine. ``cannot``: layout that it does not load -> why, in words that follow "cannot load it: "."""

    name: TargetName
    cannot: Mapping[LayoutName, str] = field(default_factory=dict)

    @property
    def takes_uneven(self) -> bool:
        """Whether layers may differ in their number of KV heads."""
        return not {"deci", "ragged"} <= self.cannot.keys()


_NO_REMOTE_CODE = "it runs no modelling file that comes with a checkpoint"
TARGETS: dict[TargetName, Target] = {
    target.name: target
    for target in (
        Target("transformers"),
        Target("vllm", {"ragged": "it was never seen to load it"}),
        Target("llama.cpp", {"ragged": _NO_REMOTE_CODE}),
        Target("ctranslate2", {"deci": "its converter knows no DeciLM", "ragged": _NO_REMOTE_CODE}),
        Target("any", {"deci": "ctranslate2 has no DeciLM", "ragged": "it needs its own modelling file"}),
    )
}
