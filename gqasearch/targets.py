"""Which forms of a checkpoint an engine loads, and what it cannot take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LayoutName = Literal["stock-symmetric", "stock-padded", "deci", "ragged"]
TargetName = Literal["transformers", "vllm", "llama.cpp", "ctranslate2", "any"]


@dataclass(frozen=True)
class Target:
    """An engine, as ``make test-clients`` found it. ``cannot``: layout that it does not load -> why; ``cannot_pad``:
    architecture whose query-padded form it does not load -> why.
    """

    name: TargetName
    cannot: Mapping[LayoutName, str] = field(default_factory=dict)
    cannot_pad: Mapping[str, str] = field(default_factory=dict)

    @property
    def takes_uneven(self) -> bool:
        """Whether layers may differ in their number of KV heads."""
        return not {"deci", "ragged"} <= self.cannot.keys()

    def objection(self, layout: LayoutName, architecture: str) -> str | None:
        """Why it does not load this layout of this architecture; None where it does."""
        if layout == "stock-padded" and architecture in self.cannot_pad:
            return self.cannot_pad[architecture]
        return self.cannot.get(layout)


_NO_REMOTE_CODE = "it runs no modelling file that comes with a checkpoint"
_HEAD_SIZE = {"Qwen2ForCausalLM": "it takes hidden size / heads for the size of a Qwen2's head"}
TARGETS: dict[TargetName, Target] = {
    target.name: target
    for target in (
        Target("transformers"),
        Target("vllm", {"ragged": "it knows no such model"}, _HEAD_SIZE),
        Target("llama.cpp", {"ragged": _NO_REMOTE_CODE}),
        Target("ctranslate2", {"deci": "its converter knows no DeciLM", "ragged": _NO_REMOTE_CODE}, _HEAD_SIZE),
        Target(
            "any",
            {"deci": "CTranslate2 knows no DeciLM", "ragged": "it needs its own modelling file"},
            {"Qwen2ForCausalLM": "vLLM and CTranslate2 take hidden size / heads for the size of a Qwen2's head"},
        ),
    )
}
