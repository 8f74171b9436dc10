"""Which family reads which architecture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from gqasearch.errors import UserError, nearest
from gqasearch.models.bert import Bert
from gqasearch.models.biogpt import XGLM, BioGpt
from gqasearch.models.cohere import Cohere
from gqasearch.models.distilbert import DistilBert
from gqasearch.models.electra import Electra
from gqasearch.models.falcon import Falcon
from gqasearch.models.families_described import DESCRIBED
from gqasearch.models.families_towers import TOWERS
from gqasearch.models.family import Config, Family, Objective
from gqasearch.models.foreign import refuse_foreign, refuse_lfs_pointers, without_config
from gqasearch.models.gemma2 import Gemma2
from gqasearch.models.gemma3 import Gemma3
from gqasearch.models.gpt2 import GPT2
from gqasearch.models.gpt_bigcode import GPTBigCode
from gqasearch.models.gpt_neo import GPTNeo
from gqasearch.models.gpt_neox import GPTNeoX
from gqasearch.models.gptj import GPTJ, CodeGen
from gqasearch.models.headless import BertEncoder, DistilBertEncoder, ElectraEncoder, RobertaEncoder
from gqasearch.models.llama import Llama
from gqasearch.models.mistral import Mistral
from gqasearch.models.opt import OPT
from gqasearch.models.persimmon import Persimmon
from gqasearch.models.phi import Phi
from gqasearch.models.phi3 import Phi3
from gqasearch.models.qwen2 import Qwen2
from gqasearch.models.qwen3 import Qwen3
from gqasearch.models.roberta import Roberta
from gqasearch.models.smollm3 import SmolLM3
from gqasearch.models.stablelm import StableLm

FAMILIES: tuple[Family, ...] = (
    Llama(),
    Mistral(),
    Qwen2(),
    Qwen3(),
    Gemma2(),
    Gemma3(),
    Phi3(),
    StableLm(),
    SmolLM3(),
    Cohere(),
    *DESCRIBED,
    *TOWERS,
    Phi(),
    GPTNeoX(),
    GPTNeo(),
    GPTJ(),
    CodeGen(),
    Falcon(),
    OPT(),
    GPT2(),
    BioGpt(),
    XGLM(),
    GPTBigCode(),
    Persimmon(),
    Bert(),
    Roberta(),
    DistilBert(),
    Electra(),
    BertEncoder(),
    RobertaEncoder(),
    DistilBertEncoder(),
    ElectraEncoder(),
)

ENCODER_DECODERS = (
    *("Whisper", "Bart", "MBart", "T5", "MT5", "UMT5", "LongT5", "Pegasus", "PegasusX", "LED", "M2M100", "NllbMoe"),
    *("Blenderbot", "BlenderbotSmall", "SwitchTransformers", "Speech2Text", "T5Gemma"),
)
_ALIBI = (
    "it has ALiBi: the bias on a head's scores belongs to the head's place among the query heads, which a grouped "
    "checkpoint changes"
)
_TWO_CACHES = (
    "it is an encoder-decoder, whose layers have two attentions with a cache each, and texts come in pairs; "
    "docs/models.md says what that would take"
)
_GEMMA4 = (
    "its layers differ in the size of a head and in their numbers of KV heads, its values are normed head by head, and "
    "in small models layers read the keys and values of others; docs/models.md says what that would take"
)
# Architectures that people will try, and why no family can read them.
REFUSED: dict[str, str] = {
    "BloomForCausalLM": _ALIBI,
    "ElectraForPreTraining": "a discriminator predicts no tokens; give what is below its head, saved as ElectraModel, "
    "or its generator (ElectraForMaskedLM)",
    "MptForCausalLM": _ALIBI,
    **{f"{name}ForConditionalGeneration": _TWO_CACHES for name in ENCODER_DECODERS},
    "MarianMTModel": _TWO_CACHES,
    "Gemma4ForCausalLM": _GEMMA4,
    "Gemma4ForConditionalGeneration": _GEMMA4,
    "Qwen3NextForCausalLM": "most of its layers have no keys and values but a state of their own",
}


# Classes of transformers that load what predicts the next token.
GENERATING = {"AutoModelForCausalLM", "AutoModelForImageTextToText"}


def supported_architectures() -> dict[str, Family]:
    """Architecture name (``config.json``'s ``architectures``) -> family."""
    return {architecture: family for family in FAMILIES for architecture in family.architectures}


def family_of(config: dict[str, Any]) -> Family:
    """The family of a ``config.json``; raises ``UserError`` that lists what is supported."""
    known = supported_architectures()
    given = architecture_of(config)
    if given is None:
        raise UserError(f"config.json names no architecture{_usual(config)}")
    if given not in known:
        reason = f": {REFUSED[given]}." if given in REFUSED else nearest(given, _of_same_model(given, known), 0.8)
        raise UserError(f"architecture {given} is not supported{reason or '.'} Supported: {', '.join(sorted(known))}")
    return known[given].reading(config)


def known_family(config: Config) -> Family | None:
    """The same; None where nobody here knows the architecture, as that of a checkpoint with code of its own."""
    return family_of(config) if architecture_of(config) in supported_architectures() else None


def _usual(config: Config) -> str:
    """What to write there, where ``model_type`` tells."""
    usual = [family.architectures[0] for family in FAMILIES if family.name == config.get("model_type")]
    return f'; add "architectures": ["{usual[0]}"] if this is one' if usual else ", which says what its weights are of"


def _of_same_model(given: str, known: Iterable[str]) -> list[str]:
    """Those that differ from ``given`` in how they are spelt or in their task: OlmoeForCausalLM is no slip for Olmo.

    What was meant of another model would load with weights missing, and read others as what they are not.
    """
    return [name for name in known if _model_part(name) == _model_part(given)]


def _model_part(architecture: str) -> str:
    return re.split("for|lmhead", architecture.lower())[0]


def objective_of(config: Config) -> Objective:
    """What a checkpoint of this ``config.json``, a source's or a converted one's, predicts.

    Of a model whose architecture nobody here knows, what the classes say that its code brings: the next token where
    they do not.
    """
    family = supported_architectures().get(architecture_of(config) or "")
    if family is not None:
        return family.objective
    classes = set(config.get("auto_map") or {})
    if "AutoModelForMaskedLM" in classes:
        return "masked"
    return "hidden-states" if "AutoModel" in classes and not classes & GENERATING else "next-token"


def architecture_of(config: Config) -> str | None:
    """The architecture that a ``config.json`` names, None for none; raises ``UserError`` for what is no name."""
    listed = config.get("architectures") or [None]
    if not isinstance(listed, list) or not isinstance(listed[0], str | None):
        raise UserError(f"config.json: architectures must be a list of names, got {listed!r}")
    name: str | None = listed[0]
    return name


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint folder; raises ``UserError`` where there is none, or where the folder holds
    something else than a plain checkpoint (``refuse_foreign``).
    """
    path = directory / "config.json"
    refuse_lfs_pointers([path])
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory} is no checkpoint: {without_config(directory)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} must hold a JSON object")
    for field in ("rope_parameters", "rope_scaling", "auto_map", "text_config"):
        if not isinstance(config.get(field), dict | None):
            raise UserError(f"{path}: {field} must be an object or null, got {config[field]!r}")
    for field in ("dtype", "torch_dtype"):
        if not _is_float_dtype(config.get(field)):
            raise UserError(
                f"{path}: {field} must be the name of torch's for numbers with a fraction, as float32, float16 or "
                f"bfloat16, or null; got {config[field]!r}"
            )
    refuse_foreign(directory, config)
    family = supported_architectures().get(architecture_of(config) or "")
    return config if family is None else family.completed(config)


def _is_float_dtype(named: object) -> bool:
    """Whether transformers takes this for what weights are stored in; of an object it takes one for each part."""
    if named is None or isinstance(named, dict):
        return True
    dtype = getattr(torch, named, None) if isinstance(named, str) else None
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point
