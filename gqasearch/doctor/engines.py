"""Facts of engines beyond ``gqasearch.targets``, each with the version in which it was run or read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gqasearch.targets import TARGETS, Target, TargetName

EngineName = Literal["transformers", "vllm", "llama.cpp", "ctranslate2", "mlx", "onnxruntime-genai", "openvino-genai"]


@dataclass(frozen=True)
class Engine:
    """``version``: what ``make test-clients`` runs; ``target``: what was found to load, None where ``loads`` says it.

    ``loads``: layouts that were made to load in an engine that ``--target`` does not know. ``runs_code``: whether it
    runs the modelling file that a checkpoint brings; ``trust``: how the user lets it. ``head_multiple``: what the size
    of a head must be a multiple of. ``splits``: whether it is known how it shares a layer's heads out to devices.
    """

    name: EngineName
    version: str
    target: Target | None
    loads: tuple[str, ...] = ()
    runs_code: bool = False
    trust: str = ""
    head_multiple: int = 1
    splits: bool = False


def _target(name: TargetName) -> Target:
    return TARGETS[name]


_STOCK = ("stock-symmetric", "stock-padded")
ENGINES: dict[EngineName, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            "transformers",
            "5.23.0",
            _target("transformers"),
            runs_code=True,
            trust="trust_remote_code=True",
            splits=False,
        ),
        Engine("vllm", "0.32.0", _target("vllm"), runs_code=True, trust="--trust-remote-code", splits=True),
        Engine("llama.cpp", "xllamacpp 2026.10.11549", _target("llama.cpp")),
        Engine("ctranslate2", "4.8.5", _target("ctranslate2")),
        Engine("mlx", "mlx-lm 0.32.2", _target("mlx")),
        Engine(
            "onnxruntime-genai",
            "0.18.0",
            None,
            (*_STOCK, "deci"),
            head_multiple=16,
            runs_code=True,
            trust="hf_remote=true",
        ),
        Engine(
            "openvino-genai",
            "2026.4.1",
            None,
            (*_STOCK, "deci", "ragged", "mimo", "openelm"),
            runs_code=True,
            trust="trust_remote_code=True",
        ),
    )
}
if set(ENGINES) != set(get_args(EngineName)):
    raise ValueError("ENGINES and EngineName name other engines")
