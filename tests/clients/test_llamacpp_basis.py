"""A checkpoint in the basis that was chosen for llama.cpp's q4_0 cache, in llama.cpp itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gqasearch.basis import Balance, balanced_layers
from gqasearch.basis.turned_layer import in_basis
from gqasearch.calibration import TokenBlocks
from gqasearch.embedded import model_directory
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, Parent, load_parent
from gqasearch.rounding import parse_format
from tests.clients.cases import TINY_VOCAB
from tests.clients.test_llamacpp import CONTEXT, LLAMACPP
from tests.tiny_models import save_checkpoint, tiny_model

HEADS, LAYERS, LENGTH = 2, 2, 24


def drawn(seed: int, blocks: int) -> Tensor:
    return torch.randint(2, 2048, (blocks, LENGTH), generator=torch.Generator().manual_seed(seed))


def burdened(parent: Parent, index: int) -> LayerWeights:
    """The same layer with one frequency of its keys, and one value, 30 times as large, as some trained ones have."""
    layer = parent.layer(index)
    keys, values = (torch.eye(layer.head_dim).repeat(HEADS, 1, 1) for _ in range(2))
    for place in (3, 3 + layer.rotary_dim // 2):
        keys[:, place, place] = 30.0
    values[:, 5, 5] = 30.0
    of = [head for head in range(HEADS) for _ in range(layer.queries_per_kv)]
    return in_basis(layer, keys, values, of, of)


def saved(parent: Parent, layers: list[LayerWeights], folder: Path) -> Path:
    """The parent with these layers."""
    for index, layer in enumerate(layers):
        for name, tensor in parent.family.write_layer(layer, index).items():
            parent.model.get_parameter(name).data = tensor.clone()
    save_checkpoint(parent.model, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_directory() / name, folder / name)
    return folder


@pytest.mark.parametrize("head_dim", [32, 96])
def test_llama_cpps_rounding_hurts_less(tmp_path: Path, head_dim: int) -> None:
    """At head sizes at which it does not rotate by itself."""
    LLAMACPP.require()
    plain = saved_plain(tmp_path, head_dim)
    first = load_parent(str(plain))
    hard = saved(first, [burdened(first, index) for index in range(LAYERS)], tmp_path / "hard")
    parent, ids = load_parent(str(hard)), drawn(0, 32)
    grouping = Grouping.uniform(LayerGrouping.singletons(HEADS), LAYERS)
    blocks = TokenBlocks(ids, torch.ones_like(ids, dtype=torch.bool), "drawn")
    made = balanced_layers(
        parent, grouping, parent.layer, blocks, parse_format("q4_0"), tmp_path / "layers", Balance(key_steps=60)
    )
    eased = saved(parent, [made[index] for index in range(LAYERS)], tmp_path / "eased")
    LLAMACPP.run("convert.py", [[str(path), f"{path}.gguf"] for path in (hard, eased)], tmp_path)
    shared = {"prompts": [[0, *row] for row in drawn(1, 12).tolist()], "vocab": TINY_VOCAB, "context": CONTEXT}
    requests = [
        {"model": f"{path}.gguf", "k": cache, "v": cache, "rotate": True, **shared}
        for path in (hard, eased)
        for cache in ("f16", "q4_0")
    ]
    told = [answer["log_probs"] for answer in LLAMACPP.run("caches.py", requests, tmp_path).result]
    kept = [rows for rows in zip(*told, strict=True) if None not in rows]  # see there
    assert len(kept) >= 6
    exact, rounded, same, less = torch.tensor(kept, dtype=torch.float64).transpose(0, 1)
    assert float((same - exact).abs().max()) < 5e-2  # float16 caches: numbers 30 times as large round as coarsely
    before, after = (float((exact.exp() * (exact - other)).sum(-1).mean()) for other in (rounded, less))
    assert 0 < after < before / 3


def saved_plain(tmp_path: Path, head_dim: int) -> Path:
    folder = tmp_path / "plain"
    return save_checkpoint(tiny_model("llama", vocab=TINY_VOCAB, head_dim=head_dim, heads=4, kv_heads=HEADS), folder)
