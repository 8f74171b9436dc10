"""A written checkpoint is the parent with tied heads, as stock transformers computes it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from gqasearch.checkpoints import write_checkpoint
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import read_grouping
from gqasearch.models import LayerWeights, Parent, load_parent
from tests.checkpoints.convert import (
    PADDED,
    SYMMETRIC,
    changed_layer,
    config_of,
    convert,
    document_for,
    load,
    reference,
    some_ids,
    stored_tensors,
)
from tests.checkpoints.equality import note
from tests.checkpoints.uneven import assert_unchanged
from tests.matrix import sampled, thinned
from tests.tiny_models import FAMILY_NAMES, save_checkpoint, tiny_model

ROUNDING = 5e-5
GROUPINGS = {"symmetric": SYMMETRIC, "padded": PADDED}
# 12 query heads over 6 KV heads; hidden differs from heads * head_dim where the family's own code allows it.
SOURCES: dict[str, dict[str, Any]] = {"mha": {}, "gqa": {"heads": 12, "kv_heads": 6}}


def saved(tmp_path: Path, family: str, shards: str = "1GB", **options: Any) -> tuple[Parent, Path]:
    folder = save_checkpoint(tiny_model(family, **options), tmp_path / f"source-{shards}", max_shard_size=shards)
    return load_parent(str(folder)), folder


def assert_same(
    parent: Parent, folder: Path, grouping: Grouping, stored: torch.dtype = torch.float32, tolerance: float = ROUNDING
) -> None:
    """Logits, greedy tokens and the size of the cache."""
    ids, kv_heads = some_ids(), grouping.group_counts[0]
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "return_dict_in_generate": True}
    written = load(folder).float()
    mask = torch.ones_like(ids)
    mask[0, :5] = 0  # padding on the left
    with torch.no_grad(), reference(parent, grouping, stored) as tied:
        expected, expected_out = tied(ids).logits, tied.generate(ids, attention_mask=mask, **options)
        got, got_out = written(ids).logits, written.generate(ids, attention_mask=mask, **options)
    assert float(expected.std()) > 0.5
    difference = float((got - expected).abs().max())
    if stored == torch.float32:
        note(parent, written, difference)
    assert difference <= tolerance
    assert torch.equal(got_out.sequences, expected_out.sequences)
    for layer in got_out.past_key_values.layers:
        assert layer.keys.shape[1] == layer.values.shape[1] == kv_heads


@pytest.mark.parametrize(("family", "source", "shape"), thinned(FAMILY_NAMES, SOURCES, GROUPINGS))
def test_written_checkpoint_equals_parent_with_tied_heads(family: str, source: str, shape: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **SOURCES[source])
    layout = convert(parent, folder, tmp_path / "out", GROUPINGS[shape])
    assert layout.name == f"stock-{shape}"
    assert_same(parent, tmp_path / "out", GROUPINGS[shape])


@pytest.mark.parametrize("family", sampled(FAMILY_NAMES, ["mistral", "qwen3"]))
def test_merge_without_effect_gives_the_parent_itself(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    assert_unchanged(parent, folder, tmp_path / "out")


@pytest.mark.parametrize("options", [{"attention_bias": True}, {"attention_bias": True, "mlp_bias": True}])
def test_llama_with_biases_symmetric(options: dict[str, Any], tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", **options)
    convert(parent, folder, tmp_path / "out", SYMMETRIC)
    assert_same(parent, tmp_path / "out", SYMMETRIC)


def test_llama_with_biases_padded_is_refused(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", attention_bias=True)
    with pytest.raises(UserError, match="biases cannot be query-padded"):
        convert(parent, folder, tmp_path / "out", PADDED, layout="stock")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("shape", GROUPINGS)
def test_qwen3_with_biases(shape: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen3", attention_bias=True)
    convert(parent, folder, tmp_path / "out", GROUPINGS[shape])
    assert_same(parent, tmp_path / "out", GROUPINGS[shape])


@pytest.mark.parametrize("family", sampled(FAMILY_NAMES, ["mistral", "qwen3"]))
def test_hidden_size_that_heads_do_not_fill(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, hidden=60)
    architecture = parent.config["architectures"]
    for shape, grouping in GROUPINGS.items():
        convert(parent, folder, tmp_path / shape, grouping)
        assert_same(parent, tmp_path / shape, grouping)
    assert config_of(tmp_path / "symmetric")["architectures"] == architecture


def test_padded_llama_is_a_mistral_and_symmetric_a_llama(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    for shape, grouping in GROUPINGS.items():
        convert(parent, folder, tmp_path / shape, grouping)
    symmetric, padded = config_of(tmp_path / "symmetric"), config_of(tmp_path / "padded")
    assert symmetric["architectures"] == ["LlamaForCausalLM"]
    assert padded["architectures"] == ["MistralForCausalLM"]
    assert (padded["model_type"], padded["sliding_window"]) == ("mistral", None)
    assert (padded["num_attention_heads"], padded["num_key_value_heads"], padded["head_dim"]) == (9, 3, 8)


def test_layers_alike_in_size_but_not_in_sizes_share_one_padding(tmp_path: Path) -> None:
    """One layer has equal groups, the other not: both get room for the largest group of all."""
    grouping = Grouping.from_labels([[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 2]])
    parent, folder = saved(tmp_path, "mistral")
    assert convert(parent, folder, tmp_path / "out", grouping).query_heads == 12
    assert_same(parent, tmp_path / "out", grouping)


@pytest.mark.parametrize("family", sampled(FAMILY_NAMES, ["mistral", "qwen3"]))
def test_sharded_equals_single_and_untouched_tensors_keep_their_bytes(family: str, tmp_path: Path) -> None:
    parent, single = saved(tmp_path, family)
    _, sharded = saved(tmp_path, family, shards="20KB")  # q, k, v, o of a layer lie in several shards
    convert(parent, single, tmp_path / "one", PADDED)
    convert(parent, sharded, tmp_path / "many", PADDED)
    one, many, source = (stored_tensors(path) for path in (tmp_path / "one", tmp_path / "many", single))
    assert one.keys() == many.keys() == source.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
    untouched = [name for name in source if "proj" not in name or "mlp" in name]
    assert any("q_norm" in name for name in untouched) == (family == "qwen3")
    assert all(torch.equal(one[name], source[name]) for name in untouched)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in many.values())}
    assert not (tmp_path / "one" / "model.safetensors.index.json").exists()
    assert sorted(path.name for path in (tmp_path / "many").glob("*.safetensors")) == sorted(
        set(index["weight_map"].values())
    )


def test_each_layer_is_merged_once(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", shards="20KB")
    asked: list[int] = []

    def merged(index: int) -> LayerWeights:
        asked.append(index)
        return changed_layer(parent.layer(index), SYMMETRIC, index)

    write_checkpoint(folder, tmp_path / "out", document_for(parent, SYMMETRIC), merged)
    assert sorted(asked) == [0, 1]


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", GROUPINGS)
def test_half_precision_stays_and_rounds_once(shape: str, stored: torch.dtype, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen2", dtype=stored)  # the parent is loaded, and merged, in float32
    convert(parent, folder, tmp_path / "out", GROUPINGS[shape])
    assert {tensor.dtype for tensor in stored_tensors(tmp_path / "out").values()} == {stored}
    assert load(tmp_path / "out").dtype == stored
    assert_same(parent, tmp_path / "out", GROUPINGS[shape], stored)


def test_mixed_dtypes_are_kept_tensor_by_tensor(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    parent, folder = saved(tmp_path, "qwen3")
    tensors = stored_tensors(folder)
    mixed = {name: t if "norm" in name or ".1." in name else t.bfloat16() for name, t in tensors.items()}
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    convert(parent, folder, tmp_path / "out", PADDED)
    assert {n: t.dtype for n, t in stored_tensors(tmp_path / "out").items()} == {n: t.dtype for n, t in mixed.items()}


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", tied=True)
    convert(parent, folder, tmp_path / "out", PADDED)
    assert "lm_head.weight" not in stored_tensors(tmp_path / "out")
    assert_same(parent, tmp_path / "out", PADDED)


def test_files_beside_the_weights(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    (folder / "LICENSE.txt").write_text("Do as you like.\n")
    (folder / "chat_template.jinja").write_text("{{ messages }}\n")
    (folder / "training_log.jsonl").write_text("{}\n")
    convert(parent, folder, tmp_path / "out", SYMMETRIC)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    copied = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE.txt", "chat_template.jinja"}
    copied |= {"training_log.jsonl"}  # whatever is no weights and no code: who knows what reads it
    assert names == copied | {"model.safetensors", "config.json", "grouping.json", "README.md"}
    assert all((folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in copied)
    assert read_grouping(tmp_path / "out" / "grouping.json").grouping == SYMMETRIC
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o644}


def test_written_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen3", shards="20KB")
    for name in ("first", "second"):
        convert(parent, folder, tmp_path / name, PADDED)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name
