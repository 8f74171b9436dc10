"""A model whose heads were given room computes the same, in stock transformers; what cannot have room is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gqasearch.checkpoints import join_heads as joined_module
from gqasearch.checkpoints import joined_source, write_joined
from gqasearch.errors import UserError
from gqasearch.models import LayerWeights, ModelSource, load_parent, resolve_model
from gqasearch.models.joined import joined_config
from tests.checkpoints.convert import load
from tests.checkpoints.test_rope_fields import variants
from tests.tiny_models import save_checkpoint, tiny_model

LENGTH = 100  # tokens: beyond the original length of 32 that some kinds of RoPE have
SOURCES: dict[str, dict[str, Any]] = {"mha": {}, "gqa": {"heads": 12, "kv_heads": 6}, "hidden": {"hidden": 80}}


def source_of(tmp_path: Path, family: str, **options: Any) -> ModelSource:
    return resolve_model(str(save_checkpoint(tiny_model(family, **options), tmp_path / "source")))


def joined(source: ModelSource, n: int) -> Path:
    folder = source.directory.parent / f"joined-{n}"
    write_joined(source, n, folder)
    return folder


def largest_difference(one: Path, other: Path) -> tuple[float, float]:
    """Of logits, and the logits' standard deviation."""
    ids = torch.randint(5, 200, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, wanted = (load(folder).float()(ids).logits for folder in (one, other))
    return float((found - wanted).abs().max()), float(wanted.std())


def turns(folder: Path, length: int) -> Tensor:
    """Cosines of every position and frequency, (length, r/2)."""
    rotary, positions = load(folder).model.rotary_emb, torch.arange(length)[None]
    cosines: Tensor = rotary(torch.zeros(1), positions)[0][0]
    return cosines[:, : cosines.shape[1] // 2]


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(
    ("family", "shape"), [("llama", "mha"), ("llama", "gqa"), ("mistral", "hidden"), ("qwen2", "gqa")]
)
def test_computes_the_same(tmp_path: Path, family: str, shape: str, n: int) -> None:
    source = source_of(tmp_path, family, **SOURCES[shape])
    folder = joined(source, n)
    difference, spread = largest_difference(folder, source.directory)
    assert difference < 2e-5 * spread < 1
    wide = resolve_model(str(folder))
    assert wide.geometry.head_dim == n * source.geometry.head_dim
    assert wide.geometry.num_kv_heads == source.geometry.num_kv_heads
    assert wide.layer(0).joined == n


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"scale_attn_weights": False}),
        ("opt", {}),
    ],
)
def test_without_a_head_size_of_its_own(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    """transformers makes such a model with heads of another size in our hands alone; its own are as before."""
    source = source_of(tmp_path, family, **options)
    own, wide = (load_parent(str(folder)).model for folder in (source.directory, joined(source, 3)))
    ids = torch.randint(5, 200, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, wanted = wide(ids).logits, own(ids).logits
        cached = (
            wide.generate(ids, max_new_tokens=4, do_sample=False),
            own.generate(ids, max_new_tokens=4, do_sample=False),
        )
    assert float((found - wanted).abs().max()) < 2e-5 * float(wanted.std())
    assert torch.equal(*cached)
    assert sum(map(torch.Tensor.numel, wide.parameters())) > sum(map(torch.Tensor.numel, own.parameters()))
    again = load_parent(str(source.directory)).model
    assert [tensor.shape for tensor in again.parameters()] == [tensor.shape for tensor in own.parameters()]


@pytest.mark.parametrize("kind", sorted(variants(4)))
def test_every_kind_of_rope_turns_alike(tmp_path: Path, kind: str) -> None:
    source = source_of(tmp_path, "llama", rope_parameters={"rope_theta": 500.0, **variants(4)[kind]})
    if kind == "dynamic":
        with pytest.raises(UserError, match="frequencies that change with the text"):
            joined(source, 2)
        return
    folder = joined(source, 2)
    difference, spread = largest_difference(folder, source.directory)
    assert difference < 1e-4 * spread
    for length in (20, LENGTH):
        own, wide = turns(source.directory, length), turns(folder, length)
        assert torch.allclose(wide, own.repeat_interleave(2, 1), atol=1e-5)  # also of copies that are zero here


def test_rounded_weights_are_rounded_once_more(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama", dtype=torch.bfloat16)
    difference, spread = largest_difference(joined(source, 4), source.directory)
    assert difference < 2e-5 * spread  # 2, the root of 4, rounds nothing
    difference, spread = largest_difference(joined(source, 2), source.directory)
    assert 2e-5 * spread < difference < 0.1 * spread


def test_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    source = source_of(tmp_path, "llama")
    assert joined_source(source, 1) is source
    wide = joined_source(source, 2)
    monkeypatch.setattr("gqasearch.checkpoints.join_heads.write_joined", lambda *_: pytest.fail("it is there"))
    assert joined_source(source, 2) == wide
    assert wide.directory != source.directory and wide.geometry.head_dim == 16


def test_another_process_may_make_it_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    source = source_of(tmp_path, "llama")
    convert = joined_module.joined_layer

    def later(weights: LayerWeights, n: int) -> LayerWeights:
        monkeypatch.setattr(joined_module, "joined_layer", convert)
        joined_source(source, n)
        return convert(weights, n)

    monkeypatch.setattr(joined_module, "joined_layer", later)
    wide = joined_source(source, 2)
    difference, spread = largest_difference(wide.directory, source.directory)
    assert difference < 2e-5 * spread and not list(wide.directory.parent.glob(".*partial*"))


@pytest.mark.parametrize(
    ("family", "n", "words"),
    [
        ("gemma", 2, "--join 2: GemmaForCausalLM has no form with heads of another size"),
        ("qwen3", 2, "--join 2: Qwen3ForCausalLM has no form"),
        ("llama", 7, "--join 7: this model has 6 KV heads, of which none can join 7"),
    ],
)
def test_refusals(family: str, n: int, words: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, family)
    with pytest.raises(UserError, match=words):
        joined_config(source.family, source.config, n)


def test_joined_heads_are_not_joined_again(tmp_path: Path) -> None:
    wide = resolve_model(str(joined(source_of(tmp_path, "llama"), 2)))
    with pytest.raises(UserError, match="the heads of this model are 2 joined already"):
        joined_config(wide.family, wide.config, 2)
