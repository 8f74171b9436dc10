"""Which model it is: the same weights are another one with another RoPE, window or number of heads in config.json."""

from __future__ import annotations

import hashlib
import json

from gqasearch.models.family import Config

# Fields of a configuration that say where a model came from, or in what it is stored. What it runs in is asked for.
COMPUTES_NOTHING = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})


def identity_of(fingerprint: str, config: Config) -> str:
    """``sha256:...`` of all that decides what a model computes: its weights (``fingerprint``) and ``config.json``."""
    computes = {name: value for name, value in config.items() if name not in COMPUTES_NOTHING}
    parts = [fingerprint, json.dumps(computes, sort_keys=True, default=str)]
    return f"sha256:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"
