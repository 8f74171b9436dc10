"""Files and fields of ``config.json``: what is missing, and what an engine reads elsewhere than another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gqasearch.checkpoints.gguf_names import CONVERTED
from gqasearch.doctor._base import Finding, Patient
from gqasearch.errors import UserError
from gqasearch.models import CheckpointTensors

TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("vocab.txt",),
)
# Of a MiMo: what transformers reads, and under which name the other engines read it.
TWICE = (("rms_norm_eps", "layernorm_epsilon"), ("rope_theta", "swa_rope_theta"))
# Whether llama.cpp makes the weights of the chosen experts sum to 1.
NORMED_EXPERTS = {"Qwen2MoeForCausalLM": False, "Qwen3MoeForCausalLM": True}
EXAONE = "Exaone4ForCausalLM"
TOP_LEVEL_THETA = ("mlx", "ctranslate2")  # mlx-lm 0.32 (models/llama.py); transformers 4, as CTranslate2's converter

# Architectures that ``gqasearch export-gguf`` makes files of.
EXPORTED = {name for forms in CONVERTED.values() for name in forms}


def weights(patient: Patient) -> Iterator[Finding]:
    """All files that the index names, each with a whole header."""
    try:
        tensors = CheckpointTensors(patient.folder)
        stored = {tensors.stored(name).dtype for name in tensors.shard_of}
    except (UserError, OSError) as error:
        yield Finding("weights", "fails", str(error))
        return
    yield Finding(
        "weights", "ok", f"{len(tensors.shard_of)} tensors in {len(tensors.files)} files, {', '.join(sorted(stored))}"
    )


def tokenizer(patient: Patient) -> Iterator[Finding]:
    """Files of the tokenizer."""
    if not any(patient.has(*names) for names in TOKENIZERS):
        yield Finding("tokenizer", "fails", "there is none: no tokenizer.json, tokenizer.model, or vocab.json")
        return
    if not patient.has("tokenizer_config.json"):
        words = "no tokenizer_config.json, which says how texts begin and end, and how a chat is written"
        yield Finding("tokenizer", "warning", words)
        return
    config: dict[str, Any] = json.loads((patient.folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if (
        patient.engine_name == "ctranslate2"
        and patient.architecture.startswith("Mistral")
        and not config.get("unk_token")
    ):
        words = 'no unknown token: give "unk_token": "" in the config.json that CTranslate2\'s converter writes'
        yield Finding("tokenizer", "warning", words)
        return
    chat = bool(config.get("chat_template")) or patient.has("chat_template.jinja")
    yield Finding("tokenizer", "ok", f"there, with{'' if chat else 'out'} a chat template")


def rope(patient: Patient) -> Iterator[Finding]:
    """RoPE's base, which lies in ``rope_parameters``, and in older words beside it."""
    config = patient.text
    inside = config.get("rope_parameters") or {}
    inside = inside.get("full_attention") or inside
    theta, beside = inside.get("rope_theta"), config.get("rope_theta")
    if theta is not None and theta != beside:
        given = "no rope_theta" if beside is None else f"rope_theta {beside:g}"
        words = f"rope_parameters has rope_theta {theta:g}, config.json itself {given}"
        reads = patient.engine_name in TOP_LEVEL_THETA or (patient.engine_name == "vllm" and patient.layout == "mimo")
        more = ", which is the one that is read" if reads else "; transformers 4 reads that one"
        yield Finding("RoPE", "fails" if reads else "warning", words + more)
    scaling = config.get("rope_scaling")
    if scaling and inside and scaling.get("rope_type", scaling.get("type")) != inside.get("rope_type"):
        words = "rope_scaling and rope_parameters are of different types; transformers takes rope_scaling"
        yield Finding("RoPE", "warning", words)


def same_in_all_words(patient: Patient) -> Iterator[Finding]:
    """A MiMo says things twice, for transformers and for the other engines."""
    if patient.layout != "mimo":
        return
    config = patient.text
    apart = [
        f"{one} {config.get(one)}, {other} {config.get(other)}"
        for one, other in TWICE
        if config.get(one) != config.get(other)
    ]
    slides = [kind == "sliding_attention" for kind in config.get("layer_types") or []]
    if slides != [bool(kind) for kind in config.get("hybrid_layer_pattern") or []]:
        apart.append("layer_types and hybrid_layer_pattern")
    if (config.get("sliding_window_size") or 0) < (config.get("max_position_embeddings") or 0):
        apart.append("a window shorter than the longest text")
    if apart:
        yield Finding("config fields", "fails", f"engines would read different models: {'; '.join(apart)}")
    else:
        yield Finding("config fields", "ok", "those that engines read under other names say the same")


def taken_for_granted(patient: Patient) -> Iterator[Finding]:
    """What llama.cpp computes as published models have it, whatever ``config.json`` says."""
    if patient.engine_name != "llama.cpp":
        return
    config = patient.text
    summed, sums = bool(config.get("norm_topk_prob")), NORMED_EXPERTS.get(patient.architecture)
    if sums is not None and summed != sums:
        words = f"norm_topk_prob is {summed}, and llama.cpp computes every {patient.architecture} as if it were {sums}"
        yield Finding("config fields", "fails", words)
    if patient.architecture == EXAONE and config.get("sliding_window") and config["num_hidden_layers"] != 64:
        words = "llama.cpp knows windows, and layers without RoPE, in an EXAONE 4 of 64 layers alone"
        yield Finding("config fields", "fails", words)


def dtype(patient: Patient) -> Iterator[Finding]:
    """What the engine takes the weights for, where it is not told."""
    if not any(fields.get(name) for fields in (patient.config, patient.text) for name in ("dtype", "torch_dtype")):
        words = "config.json names no dtype: engines that are asked for none take float32, twice the memory"
        yield Finding("config fields", "warning", words)
    if patient.engine_name == "vllm" and not patient.text.get("max_position_embeddings"):
        yield Finding("config fields", "warning", "no max_position_embeddings: give --max-model-len")


def export(patient: Patient) -> Iterator[Finding]:
    """How the checkpoint becomes the engine's own file, where a converter does not do it."""
    if patient.engine_name != "llama.cpp":
        return
    if patient.architecture in EXPORTED:
        words = "from the parent's: gqasearch export-gguf, which needs no converter that knows the tokenizer"
        yield Finding("GGUF file", "ok", words)
    else:
        words = "gqasearch export-gguf makes none of this architecture; llama.cpp's own converter has to know it"
        yield Finding("GGUF file", "warning", words)
