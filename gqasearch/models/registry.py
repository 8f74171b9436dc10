"""Which family reads which architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gqasearch.errors import UserError
from gqasearch.models.family import Family
from gqasearch.models.gpt_neox import GPTNeoX
from gqasearch.models.llama import Llama
from gqasearch.models.mistral import Mistral
from gqasearch.models.opt import OPT
from gqasearch.models.qwen2 import Qwen2
from gqasearch.models.qwen3 import Qwen3

FAMILIES: tuple[Family, ...] = (Llama(), Mistral(), Qwen2(), Qwen3(), GPTNeoX(), OPT())


def supported_architectures() -> dict[str, Family]:
    """Architecture name (``config.json``'s ``architectures``) -> family."""
    return {architecture: family for family in FAMILIES for architecture in family.architectures}


def family_of(config: dict[str, Any]) -> Family:
    """The family of a ``config.json``; raises ``UserError`` that lists what is supported."""
    known = supported_architectures()
    given = (config.get("architectures") or ["(none named)"])[0]
    if given not in known:
        raise UserError(f"architecture {given} is not supported. Supported: {', '.join(sorted(known))}")
    return known[given]


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint folder."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory} is no checkpoint: it has no config.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} must hold a JSON object")
    return config
