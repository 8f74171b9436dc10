"""What happens to checkpoints in real life: each function does one such thing to a folder, by a generator's draws.

A folder may be as good as before, or no longer a model at all. What must hold afterwards is in ``tests.fuzz.case``.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
Damage = Callable[[Path, random.Random], None]


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _edit(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "config.json") -> None:
    path = folder / name
    if path.is_file():
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")


def _rewrite(shard: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(shard)
    change(tensors)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, shard, metadata={"format": "pt"})


# --- config.json

STRANGE: tuple[Any, ...] = (None, -1, 0, 1, 3, 7, 2**40, 0.5, math.pi, True, "", "8", "relu", [], [1, 2], {}, {"a": 1})


def any_field(folder: Path, rng: random.Random) -> None:
    """One field of any kind gets a strange value, or goes."""

    def change(config: dict[str, Any]) -> None:
        name = rng.choice(sorted(config))
        if rng.random() < 0.3:
            del config[name]
        else:
            config[name] = rng.choice(STRANGE)

    _edit(folder, change)


def other_sizes(folder: Path, rng: random.Random) -> None:
    """A number of layers, heads or widths that the weights do not have."""
    names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "vocab_size")

    def change(config: dict[str, Any]) -> None:
        config[rng.choice(names)] = rng.choice((1, 2, 3, 4, 6, 8, 12, 48, 300))

    _edit(folder, change)


def rope(folder: Path, rng: random.Random) -> None:
    """Another RoPE, well-formed, where transformers 5, 4 or both look for it."""
    given: dict[str, Any] = rng.choice(
        (
            {"rope_type": "linear", "factor": 2.0},
            {"rope_type": "dynamic", "factor": 2.0},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 0.8},
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 16.0,
                "mscale": 0.7,
                "mscale_all_dim": 0.5,
                "truncate": False,
            },
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 3.0, 4.0, 5.0]},
            {
                "rope_type": "longrope",
                "short_factor": [1.0, 1.5, 2.0, 3.0],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
                "factor": 3.0,
                "attention_factor": 1.3,
                "original_max_position_embeddings": 32,
            },
            {"rope_type": "default"},
        )
    )

    def change(config: dict[str, Any]) -> None:
        theta = rng.choice((100.0, 10000.0, 500000.0))
        where = rng.choice(("parameters", "scaling", "old", "both"))
        old = {"type" if name == "rope_type" else name: value for name, value in given.items()}
        if where in ("parameters", "both"):
            config["rope_parameters"] = {**given, "rope_theta": theta}
        else:
            config.pop("rope_parameters", None)
            config["rope_theta"] = theta
        if where != "parameters":
            config["rope_scaling"] = old if where == "old" else dict(given)
        if rng.random() < 0.3:
            config["original_max_position_embeddings"] = 32

    _edit(folder, change)


def other_words(folder: Path, rng: random.Random) -> None:
    """What changes the network without changing a shape."""
    choices: tuple[dict[str, Any], ...] = (
        {"sliding_window": 8},
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False},
        {"attention_bias": True},
        {"partial_rotary_factor": 0.5},
        {"hidden_act": "relu"},
        {"pretraining_tp": 2},
        {"dtype": "float16"},
        {"torch_dtype": "bfloat16"},
        {"attn_implementation": "flash_attention_2"},
        {"model_type": "mistral"},
        {"architectures": ["MixtralForCausalLM"]},
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral"},
        {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"},
        {"architectures": []},
        {"architectures": "LlamaForCausalLM"},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}},
        {"per_layer_config": {"0": {"num_key_value_heads": 2}}},
        {"max_position_embeddings": 8},
        {"bos_token_id": 10**6},
        {"pad_token_id": 10**6},
    )
    _edit(folder, lambda config: config.update(rng.choice(choices)))


def no_config(folder: Path, rng: random.Random) -> None:
    """No ``config.json``, or one that is cut, empty, of another form or in another encoding."""
    path = folder / "config.json"
    text = path.read_text(encoding="utf-8")
    kind = rng.randrange(6)
    if kind == 0:
        path.unlink()
    else:
        path.write_bytes(
            (text[: len(text) // 2].encode(), b"", b"[]", text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode())[
                kind - 1
            ]
        )


# --- the index and the files that it names


def index_omits(folder: Path, rng: random.Random) -> None:
    """Tensors lie in a shard that the index does not list."""

    def change(index: dict[str, Any]) -> None:
        for name in rng.sample(sorted(index["weight_map"]), rng.randint(1, 3)):
            del index["weight_map"][name]

    _edit(folder, change, INDEX)


def index_lies(folder: Path, rng: random.Random) -> None:
    """The index names another shard, one that is not there, a tensor that is not there, or is no index."""

    def change(index: dict[str, Any]) -> None:
        listed = index["weight_map"]
        name, other = rng.choice(sorted(listed)), rng.choice(sorted(listed.values()))
        kind = rng.randrange(6)
        if kind == 0:
            listed[name] = other
        elif kind == 1:
            listed[name] = "model-00009-of-00009.safetensors"
        elif kind == 2:
            listed["model.layers.0.self_attn.ghost.weight"] = other
        elif kind == 3:
            index.pop("weight_map")
        elif kind == 4:
            index["weight_map"] = rng.choice(STRANGE)
        else:
            index["metadata"] = {"total_size": 1}

    _edit(folder, change, INDEX)


def single_beside_index(folder: Path, rng: random.Random) -> None:
    """One file beside shards: of other values, whole or in part; or an index beside a whole file, its shards gone."""
    shards = _shards(folder)
    everything = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    kind = rng.randrange(3)
    if kind == 0:
        other = {name: tensor + 0.1 if tensor.is_floating_point() else tensor for name, tensor in everything.items()}
        save_file(other, folder / SINGLE, metadata={"format": "pt"})
    elif kind == 1:
        part = {name: everything[name] for name in rng.sample(sorted(everything), max(1, len(everything) // 2))}
        save_file(part, folder / SINGLE, metadata={"format": "pt"})
    else:
        for shard in shards:
            shard.unlink()
        save_file(everything, folder / SINGLE, metadata={"format": "pt"})
        if not (folder / INDEX).is_file():
            listed = dict.fromkeys(everything, "model-00001-of-00002.safetensors")
            (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}), encoding="utf-8")


def stale_copy(folder: Path, rng: random.Random) -> None:
    """A tensor lies in two shards, with other values."""
    shards = _shards(folder)
    if len(shards) < 2:
        return
    source, target = rng.sample(shards, 2)
    name, tensor = rng.choice(sorted(load_file(source).items()))
    _rewrite(target, lambda tensors: tensors.update({name: tensor * 1.5}))


# --- tensors


def lacks(folder: Path, rng: random.Random) -> None:
    """A tensor is missing, from the index too."""
    shard = rng.choice(_shards(folder))
    gone = rng.choice(sorted(load_file(shard)))
    _rewrite(shard, lambda tensors: tensors.__delitem__(gone))
    _edit(folder, lambda index: index["weight_map"].pop(gone, None), INDEX)


def has_more(folder: Path, rng: random.Random) -> None:
    """A tensor that this architecture has not, or that is computed anyway."""
    names = (
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.k_scale",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.9.self_attn.q_proj.weight",
        "model.rotary_emb.inv_freq",
        "lm_head.weight",
        "score.weight",
        "something.else",
    )
    name = rng.choice(names)
    shard = rng.choice(_shards(folder))
    size = rng.choice(((8,), (48,), (48, 48), (259, 48)))
    _rewrite(shard, lambda tensors: tensors.update({name: torch.full(size, 0.3)}))
    _edit(folder, lambda index: index["weight_map"].update({name: shard.name}), INDEX)


def other_values(folder: Path, rng: random.Random) -> None:
    """A tensor of another dtype or shape, of NaN, or of zeros."""
    shard = rng.choice(_shards(folder))
    kind = rng.randrange(6)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = rng.choice(sorted(tensors))
        tensor = tensors[name]
        tensors[name] = (
            lambda: tensor.to(torch.float64),
            lambda: tensor.to(torch.float16),
            lambda: tensor.to(torch.int8),
            lambda: tensor[:-1],
            lambda: torch.full_like(tensor, math.nan),
            lambda: torch.zeros_like(tensor),
        )[kind]()

    _rewrite(shard, change)


def damaged_bytes(folder: Path, rng: random.Random) -> None:
    """A file that is cut, empty, a pointer of Git LFS, or has other bytes in its header."""
    shard = rng.choice(_shards(folder))
    data = shard.read_bytes()
    kind = rng.randrange(5)
    if kind == 0:
        shard.write_bytes(data[: rng.randrange(len(data))])
    elif kind == 1:
        shard.write_bytes(b"")
    elif kind == 2:
        shard.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize {len(data)}\n")
    elif kind == 3:
        place = rng.randrange(8, min(len(data), 2000))
        shard.write_bytes(data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :])
    else:
        shard.write_bytes(data + b"\0" * 8)


def linked(folder: Path, _: random.Random) -> None:
    """Files are links into another folder, as the hub's cache has them."""
    blobs = folder.with_name(folder.name + "-blobs")
    blobs.mkdir()
    for path in list(folder.iterdir()):
        shutil.move(path, blobs / path.name)
        path.symlink_to(blobs / path.name)


# --- the tokenizer


def added_pad(folder: Path, _: random.Random) -> None:
    """``[PAD]`` was added to the tokenizer, and the embeddings not resized."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)


def tokenizer_files(folder: Path, rng: random.Random) -> None:
    """A file of the tokenizer is gone, cut, or changed."""
    path = rng.choice(sorted(folder.glob("*token*.json")))
    kind = rng.randrange(3)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        _edit(folder, lambda value: value.update({rng.choice(sorted(value)): rng.choice(STRANGE)}), path.name)


MODEL_DAMAGES: tuple[Damage, ...] = (
    *(any_field, other_sizes, rope, other_words, no_config),
    *(index_omits, index_lies, single_beside_index, stale_copy),
    *(lacks, has_more, other_values, damaged_bytes, linked),
    *(added_pad, tokenizer_files),
)
