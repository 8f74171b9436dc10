"""Which forms of a checkpoint an engine loads, and what it cannot take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

LayoutName = Literal["stock-symmetric", "stock-padded", "deci", "ragged", "mimo", "openelm", "anymodel"]
TargetName = Literal["transformers", "vllm", "llama.cpp", "ctranslate2", "mlx", "any"]

UnevenName = Literal["ragged", "deci", "openelm"]
UNEVEN: tuple[UnevenName, ...] = get_args(UnevenName)  # layouts whose layers have any numbers of KV heads, best first

UNROUNDED = "f16"  # in every engine
# Where no engine is named: what rounds least for its bits. Keys hurt more than values, and never have fewer.
PLAIN_FORMATS = (UNROUNDED, "int8", "k8v4", "int4", "k4v3", "int3", "k3v2", "int2")

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Target:
    """An engine, as ``make test-clients`` found it. ``cannot``: layout that it does not load -> why; ``cannot_pad``:
    architecture whose query-padded form it does not load -> why; ``cannot_load``: architecture of which it loads no
    converted checkpoint -> why; ``tested``: architectures whose stock checkpoints it computes as it should, None for
    all. ``cannot_join``: why it does not load heads that were joined (``gqasearch.models.joined``), "" where it does.
    ``formats``: of its KV cache, the same in all layers, as ``gqasearch ls formats`` names them, widest first.
    """

    name: TargetName
    cannot: Mapping[str, str] = field(default_factory=dict)
    cannot_pad: Mapping[str, str] = field(default_factory=dict)
    cannot_load: Mapping[str, str] = field(default_factory=dict)
    tested: tuple[str, ...] | None = None
    cannot_join: str = ""
    formats: tuple[str, ...] = (UNROUNDED,)

    @property
    def uneven(self) -> UnevenName | None:
        """The layout that it gets where layers differ in their number of KV heads; None where it loads none of any
        numbers.
        """
        return next((name for name in UNEVEN if name not in self.cannot), None)

    def objection(self, layout: str, architecture: str) -> str | None:
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
        tuple(name for name in engines[0].formats if all(name in engine.formats for engine in engines)),
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
    *("Qwen3MoeForCausalLM", "Exaone4ForCausalLM"),
)
_SIZED_BY_WIDTH = (
    *("GraniteForCausalLM", "OlmoForCausalLM", "Starcoder2ForCausalLM"),
    *("GraniteMoeForCausalLM", "Olmo2ForCausalLM", "Qwen2MoeForCausalLM", "Exaone4ForCausalLM"),
)
_UNKNOWN_TO_CTRANSLATE2 = (
    *("CohereForCausalLM", "GraniteForCausalLM", "OlmoForCausalLM"),
    *("SmolLM3ForCausalLM", "StableLmForCausalLM", "Starcoder2ForCausalLM"),
)
_ONE_NUMBER = "it takes one number of KV heads for all layers of such a model"
_NO_OPENELM = "it cannot read lists of heads in its config.json"
# Symmetric; padded where they are not in the next list.
_MORE_OF_MLX = (
    *("Phi3ForCausalLM", "StableLmForCausalLM", "GraniteForCausalLM", "SmolLM3ForCausalLM", "SeedOssForCausalLM"),
    *("Glm4ForCausalLM", "NemotronForCausalLM", "PhiForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    *("Qwen2MoeForCausalLM", "MixtralForCausalLM", "GraniteMoeForCausalLM"),
)
_SIZED_BY_WIDTH_IN_MLX = (
    *("Qwen2ForCausalLM", "Phi3ForCausalLM", "Starcoder2ForCausalLM", "GraniteForCausalLM", "PhiForCausalLM"),
    *("Cohere2ForCausalLM", "Qwen2MoeForCausalLM", "MixtralForCausalLM", "GraniteMoeForCausalLM"),
)
_ENGINES = (
    Target("transformers", formats=(UNROUNDED, "hqq8", "hqq4", "quanto4", "hqq2", "quanto2")),
    Target(
        "vllm",
        {"ragged": "it knows no such model", "openelm": _NO_OPENELM, "anymodel": "vLLM 0.33.0 has no AnyModel yet"},
        _QWEN2,
        tested=(*_LLAMA_LIKE, "PhiForCausalLM"),
        formats=(UNROUNDED, "fp8", "int8_per_token_head", "fp8_per_token_head", "int4_per_token_head"),
    ),
    Target(
        "llama.cpp",
        {
            "ragged": _NO_REMOTE_CODE,
            "openelm": "its converter cannot read its config.json",
            "anymodel": "its converter knows no AnyModel; gqasearch export-gguf makes a file of a Llama's",
        },
        dict.fromkeys(_SIZED_BY_WIDTH, _SIZE),
        {"PhiForCausalLM": "it expects a Phi to have as many key heads as query heads"},
        (*_LLAMA_LIKE, "GraniteForCausalLM", "OlmoForCausalLM", "StableLmForCausalLM", *_MORE_OF_LLAMA_CPP),
        formats=(UNROUNDED, "q8_0", "q8_0/q5_1", "q8_0/q4_0", "q5_1", "q5_1/q4_0", "q4_1", "q4_0", "iq4_nl"),
    ),
    Target(
        "ctranslate2",
        {
            "deci": "its converter knows no DeciLM",
            "ragged": _NO_REMOTE_CODE,
            "mimo": "its converter knows no MiMo",
            "openelm": "its converter knows no OpenELM",
            "anymodel": _ONE_NUMBER,
        },
        _QWEN2,
        {
            **dict.fromkeys(_UNKNOWN_TO_CTRANSLATE2, "its converter knows no such model"),
            "PhiForCausalLM": "its converter cannot read its config.json",
        },
        (*_LLAMA_LIKE, "GemmaForCausalLM"),
        "its converter does not read the RoPE of a Mistral of type longrope",
    ),
    Target(
        "mlx",
        {"deci": "it knows no such model", "ragged": _NO_REMOTE_CODE, "anymodel": _ONE_NUMBER},
        dict.fromkeys(_SIZED_BY_WIDTH_IN_MLX, _SIZE),
        {
            **dict.fromkeys(("ArceeForCausalLM", "MinistralForCausalLM"), "it knows no such model"),
            "GlmForCausalLM": "it turns the whole of every head by RoPE, where a GLM turns half",
        },
        (*_LLAMA_LIKE, *_MORE_OF_MLX),
    ),
)
TARGETS: dict[TargetName, Target] = {target.name: target for target in (*_ENGINES, _any(_ENGINES))}
