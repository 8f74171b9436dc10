"""``--model x.gguf``, of files that llama.cpp's own converter wrote: the model that they were made from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from gqasearch.embedded import model_directory
from gqasearch.models import load_parent, resolve_model
from gqasearch.models.sample_text import SAMPLE
from tests.clients.cases import TINY_VOCAB
from tests.clients.client import Client
from tests.tiny_models import edit_config, save_checkpoint, tiny_model

LLAMACPP = Client("llamacpp", "llama.cpp", in_suite=True)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
EVERY_SIXTH = ["sliding_attention"] * 5 + ["full_attention"]
GLOBAL = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
# What llama.cpp cannot say is as it has it: Gemma's scores are divided by the root of the head size, and so on.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"kv_heads": 3, "tied": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3": (
        "llama",
        {
            "rope_parameters": {**LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 8192},
            "max_position_embeddings": 16384,
        },
    ),
    "llama, other factors": (
        "llama",
        {
            "rope_parameters": {**LLAMA3, "rope_theta": 100.0, "original_max_position_embeddings": 16},
            "max_position_embeddings": 64,
        },
    ),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "mistral, wide": ("mistral", {"hidden": 96, "kv_heads": 2}),
    "qwen2": ("qwen2", {"kv_heads": 2}),
    "qwen2, yarn": (
        "qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "qwen3": ("qwen3", {"kv_heads": 3, "hidden": 96, "tied": True}),
    "gemma": ("gemma", {"kv_heads": 1, "tied": True}),
    "gemma2": ("gemma2", {"kv_heads": 2, "tied": True, "query_pre_attn_scalar": 32, "attn_logit_softcapping": 5.0}),
    "gemma3": (
        "gemma3_text",
        {
            "kv_heads": 2,
            "vocab": 2050,  # the converter counts the tokenizer's special tokens twice, and cuts the embeddings there
            "tied": True,
            "layers": 6,
            "query_pre_attn_scalar": 32,
            "layer_types": EVERY_SIXTH,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": GLOBAL,
            },
        },
    ),
    "phi3": ("phi3", {"kv_heads": 3, "original_max_position_embeddings": 128}),
    "phi2": ("phi", {}),
    "granite": ("granite", {"kv_heads": 2, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "tied": True}),
    "smollm3": ("smollm3", {"layers": 4, "kv_heads": 2, "no_rope_layers": [1, 1, 1, 0]}),
    "olmo": ("olmo", {"kv_heads": 2}),
    "gpt2": ("gpt2", {"tied": True, "n_inner": 768}),
    "gptneox": ("gpt_neox", {}),
    "falcon": ("falcon", {"kv_heads": 2, "tied": True}),
    "starcoder2": ("starcoder2", {"kv_heads": 2}),
    "stablelm": ("stablelm", {"kv_heads": 2}),
    "command-r": ("cohere", {"kv_heads": 2, "tied": True, "logit_scale": 0.5}),
}

# These keep a tokenizer without merges, which may be split in any way.
SPLIT_AS_QWEN = ("qwen2", "qwen3")
OLD_FIELDS = {"gpt2": {"n_ctx": 128}}  # of older versions, which the converter asks for


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Name -> a checkpoint folder and the file that the converter made of it, in float32."""
    LLAMACPP.require()
    home = tmp_path_factory.mktemp("sources")
    made, jobs = {}, []
    for place, (name, (family, options)) in enumerate(MODELS.items()):
        folder = save_checkpoint(
            tiny_model(family, **{"vocab": TINY_VOCAB, "head_dim": 32, **options}), home / str(place)
        )
        edit_config(folder, **OLD_FIELDS.get(name, {}))
        for file in () if family in SPLIT_AS_QWEN else ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(model_directory() / file, folder / file)
        made[name] = folder, home / f"{place}.gguf"
        jobs.append([str(folder), str(made[name][1]), "f32"])
    LLAMACPP.run("convert_families.py", jobs, home)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_model_that_the_file_was_made_from(name: str, sources: dict[str, tuple[Path, Path]]) -> None:
    folder, file = sources[name]
    wanted, found = load_parent(str(folder)), load_parent(str(file))
    ids = torch.randint(3, TINY_VOCAB - 8, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = found.model(ids).logits, wanted.model(ids).logits
    # Bit for bit but where numbers pass through another form: Gemma's norms, and RoPE's factors.
    assert float((ours - theirs).abs().max()) < 2e-5 * float(theirs.abs().max())
    assert found.geometry == wanted.geometry
    original = AutoTokenizer.from_pretrained(folder)
    assert found.tokenizer is not None
    assert found.tokenizer(SAMPLE)["input_ids"] == original(SAMPLE)["input_ids"]
    assert found.tokenizer.decode(found.tokenizer(SAMPLE)["input_ids"], skip_special_tokens=True) == SAMPLE


def test_the_folder_is_made_once(sources: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    file = sources["llama"][1]
    first = resolve_model(str(file)).directory
    copy = file.with_name("copy.gguf")
    shutil.copyfile(file, copy)
    monkeypatch.setattr("gqasearch.models.gguf.checkpoint.write_folder", None)
    assert resolve_model(str(copy)).directory == first
