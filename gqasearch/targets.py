"""Which forms of a checkpoint an engine loads, and what it cannot take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

LayoutName = Literal["stock-symmetric", "stock-padded", "deci", "ragged"]
TargetName = Literal["transformers", "vllm", "llama.cpp", "ctranslate2", "any"]

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Target:
    """An engine, as ``make test-clients`` found it. ``cannot``: layout that it does not load -> why; ``cannot_pad``:
    architecture whose query-padded form it does not load -> why; ``cannot_load``: architecture of which it loads no
    converted checkpoint -> why; ``tested``: architectures whose stock checkpoints it computes as it should, None for
    all. ``cannot_join``: why it does not load heads that were joined (``gqasearch.models.joined``), "" where it does.
    """

    name: TargetName
    cannot: Mapping[LayoutName, str] = field(default_factory=dict)
    cannot_pad: Mapping[str, str] = field(default_factory=dict)
    cannot_load: Mapping[str, str] = field(default_factory=dict)
    tested: tuple[str, ...] | None = None
    cannot_join: str = ""

    @property
    def takes_uneven(self) -> bool:
        """Whether layers may differ in their number of KV heads."""
        return not {"deci", "ragged"} <= self.cannot.keys()

    def objection(self, layout: LayoutName, architecture: str) -> str | None:
        """Why it does not load this layout of this architecture; None where it is not known to fail."""
        if architecture in self.cannot_load:
            return self.cannot_load[architecture]
        if layout == "stock-padded" and architecture in self.cannot_pad:
            return self.cannot_pad[architecture]
        return self.cannot.get(layout)

    def is_tested(self, architecture: str) -> bool:
        """Whether it was found to compute stock checkpoints of this architecture as the parent does."""
        return self.tested is None or architecture in self.tested


def _any(engines: Sequence[Target]) -> Target:
    """What all of ``engines`` load."""
    limited = [set(engine.tested) for engine in engines if engine.tested is not None]
    return Target(
        "any",
        _joined({engine.name: engine.cannot for engine in engines}),
        _joined({engine.name: engine.cannot_pad for engine in engines}),
        _joined({engine.name: engine.cannot_load for engine in engines}),
        tuple(sorted(set.intersection(*limited))),
        "; ".join(f"{engine.name}: {engine.cannot_join}" for engine in engines if engine.cannot_join),
    )


def _joined(objections: Mapping[TargetName, Mapping[Name, str]]) -> dict[Name, str]:
    """What any engine objects to -> who does, and why."""
    found = sorted({what for its in objections.values() for what in its})
    return {
        what: "; ".join(f"{engine}: {its[what]}" for engine, its in objections.items() if what in its) for what in found
    }


_NO_REMOTE_CODE = "it runs no modelling file that comes with a checkpoint"
_SIZE = "it takes hidden size / heads for the size of a head"
_QWEN2 = {"Qwen2ForCausalLM": "it takes hidden size / heads for the size of a Qwen2's head"}
_LLAMA_LIKE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_MORE_OF_LLAMA_CPP = (
    *("ArceeForCausalLM", "SeedOssForCausalLM", "Olmo2ForCausalLM"),
    *("MixtralForCausalLM", "Qwen2MoeForCausalLM", "GraniteMoeForCausalLM"),
)
_SIZED_BY_WIDTH = (
    *("GraniteForCausalLM", "OlmoForCausalLM", "Starcoder2ForCausalLM"),
    *("GraniteMoeForCausalLM", "Olmo2ForCausalLM", "Qwen2MoeForCausalLM"),
)
_UNKNOWN_TO_CTRANSLATE2 = (
    *("CohereForCausalLM", "GraniteForCausalLM", "OlmoForCausalLM"),
    *("SmolLM3ForCausalLM", "StableLmForCausalLM", "Starcoder2ForCausalLM"),
)
_ENGINES = (
    Target("transformers"),
    Target("vllm", {"ragged": "it knows no such model"}, _QWEN2, tested=(*_LLAMA_LIKE, "PhiForCausalLM")),
    Target(
        "llama.cpp",
        {"ragged": _NO_REMOTE_CODE},
        dict.fromkeys(_SIZED_BY_WIDTH, _SIZE),
        {"PhiForCausalLM": "it expects a Phi to have as many key heads as query heads"},
        (*_LLAMA_LIKE, "GraniteForCausalLM", "OlmoForCausalLM", "StableLmForCausalLM", *_MORE_OF_LLAMA_CPP),
    ),
    Target(
        "ctranslate2",
        {"deci": "its converter knows no DeciLM", "ragged": _NO_REMOTE_CODE},
        _QWEN2,
        {
            **dict.fromkeys(_UNKNOWN_TO_CTRANSLATE2, "its converter knows no such model"),
            "PhiForCausalLM": "its converter cannot read its config.json",
        },
        (*_LLAMA_LIKE, "GemmaForCausalLM"),
        "its converter does not read the RoPE of a Mistral of type longrope",
    ),
)
TARGETS: dict[TargetName, Target] = {target.name: target for target in (*_ENGINES, _any(_ENGINES))}
