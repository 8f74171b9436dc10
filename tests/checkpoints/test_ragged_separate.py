"""The ragged layout of keys and values that were grouped apart: real heads only, as many of each as there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from gqasearch.checkpoints import plan_layout
from gqasearch.checkpoints.ragged import RAGGED_MODULES, SEPARATE_MODULES, read_together
from gqasearch.checkpoints.remote.modeling_ragged import LayerGroups
from gqasearch.errors import UserError
from gqasearch.evaluation import kv_bytes_per_token
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import HeadGeometry, layers_replaced, tie_heads
from gqasearch.separate_grouping import SeparateGrouping
from tests.checkpoints.convert import changed_layer, config_of, some_ids, stored_tensors
from tests.checkpoints.uneven import SOURCES, UNEVEN, assert_same, load_trusted, saved, write
from tests.matrix import sampled
from tests.tiny_models import GROUPED_NAMES, edit_config, tiny_model

# 2 key and 3 value heads, then 4 and 2.
APART = SeparateGrouping.from_sides(
    Grouping.from_labels([[0, 1, 0, 0, 1, 0], [0, 1, 2, 1, 1, 0], [0, 1, 2, 1, 3, 1], [0, 0, 0, 1, 1, 0]])
)
SHAPE = HeadGeometry(2, 6, 6, 8, 48, 8)
SINGLES = Grouping.uniform(LayerGrouping.singletons(6), 2)
# One after the other: plain, biases, head norms, capped scores that sdpa cannot do, q k v stored together, norms of
# the stream folded into a Phi's projections.
KINDS = ("llama", "qwen2", "qwen3", "gemma2", "phi3", "phi")


def of_both(grouping: Grouping) -> SeparateGrouping:
    """The same partition for keys and for values."""
    return SeparateGrouping.from_sides(Grouping(tuple(layer for layer in grouping for _ in range(2))))


@pytest.mark.parametrize("source", sorted(SOURCES))
@pytest.mark.parametrize("family", sampled((name for name in GROUPED_NAMES if not name.startswith("stablelm")), KINDS))
def test_written_checkpoint_equals_parent_with_tied_heads(family: str, source: str, tmp_path: Path) -> None:
    """Whole, left-padded, and generating with a cache that holds so many key heads and so many value heads."""
    parent, folder = saved(tmp_path, family, **SOURCES[source])
    layout = write(parent, folder, tmp_path / "out", APART, "auto")
    assert (layout.name, layout.kv_heads_per_layer, layout.value_heads_per_layer) == ("ragged", (2, 4), (3, 2))
    assert layout.kv_heads_words == "2 to 4 key and 2 to 3 value"
    kernel = "eager" if family == "gemma2" or source == "gqa" else "sdpa"
    written = load_trusted(tmp_path / "out", attn_implementation=kernel)
    assert_same(parent, written, APART)
    if family not in ("gemma2", "gemma3_text"):  # which forget what left their windows
        assert kv_bytes_per_token(written) == (2 + 3 + 4 + 2) * 8 * 4


def test_stablelm_takes_as_many_value_heads_as_key_heads(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "stablelm")
    with pytest.raises(UserError, match="StableLmForCausalLM has no layout for keys and values that are grouped apart"):
        write(parent, folder, tmp_path / "out", APART, "auto")


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_positions_that_are_learned(family: str, kernel: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    write(parent, folder, tmp_path / "out", APART, "auto")
    written = load_trusted(tmp_path / "out", attn_implementation=kernel)
    assert_same(parent, written, APART)
    assert kv_bytes_per_token(written) == (2 + 3 + 4 + 2) * 8 * 4
    edit_config(tmp_path / "out", kv_group_heads=[[[0, 0]], [[0, 0]]])
    with pytest.raises(ValueError, match=r"kv_group_heads\[0\] must have an entry for each of 4 groups"):
        AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)


def test_a_neox_written_as_phi(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "gpt_neox")
    write(parent, folder, tmp_path / "out", APART, "auto")
    assert_same(parent, load_trusted(tmp_path / "out"), APART, tolerance=1e-4)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision(stored: torch.dtype, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen2", dtype=stored)
    write(parent, folder, tmp_path / "out", APART, "ragged")
    written = load_trusted(tmp_path / "out")
    assert written.dtype == stored
    ids = torch.ones(2, 6, dtype=torch.long)
    assert written.generate(ids, attention_mask=ids, max_new_tokens=3, min_new_tokens=3).shape == (2, 9)
    assert_same(parent, written.float(), APART, stored)


def test_equal_partitions_are_the_model_with_one(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    for name, grouping in (("one", UNEVEN), ("two", of_both(UNEVEN))):
        write(parent, folder, tmp_path / name, grouping, "ragged")
    one, two = (load_trusted(tmp_path / name) for name in ("one", "two"))
    assert_same(parent, two, UNEVEN)
    with torch.no_grad():
        assert float((one(some_ids()).logits - two(some_ids()).logits).abs().max()) < 1e-5
    assert kv_bytes_per_token(one) == kv_bytes_per_token(two)


def test_single_heads_on_both_sides_are_the_parent(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen3")
    write(parent, folder, tmp_path / "out", of_both(SINGLES), "ragged")
    assert_same(parent, load_trusted(tmp_path / "out"), SINGLES)  # ``changed_layer`` moves q and o all the same
    assert kv_bytes_per_token(load_trusted(tmp_path / "out")) == 2 * 2 * 6 * 8 * 4


def test_relabelled_heads_are_the_same_model(tmp_path: Path) -> None:
    """Heads of the source in another order, the partitions with them: the same logits."""
    parent, _ = saved(tmp_path, "llama")
    order = [3, 0, 5, 1, 4, 2]
    layer, wide = APART.layers[0], parent.layer(0).to(torch.float64)
    moved = type(wide)(**{**vars(wide), **{role: getattr(wide, role)[order] for role in ("q", "k", "v", "o")}})
    sides = [LayerGrouping.from_labels([side.labels[head] for head in order]) for side in (layer.keys, layer.values)]
    found = []
    for weights, partitions in ((wide, layer), (moved, type(layer)(*sides))):
        grouped = SeparateGrouping((partitions, partitions))
        merged = changed_layer(weights, grouped, 0)
        plain = type(merged)(**{**vars(merged), "q": weights.q, "o": weights.o})  # the noise knows the order
        with layers_replaced(parent, {0: tie_heads(plain, partitions, 1).to(torch.float32)}), torch.no_grad():
            found.append(parent.model(some_ids()).logits)
    torch.testing.assert_close(*found, atol=2e-5, rtol=0)


def test_every_group_gets_the_key_and_the_value_that_it_names() -> None:
    """What a layer attends with: the key head and the value head that every group of queries names."""
    torch.manual_seed(0)
    heads = [[0, 0], [1, 2], [1, 1], [0, 1]]
    groups = LayerGroups([2, 2, 1, 1], heads)
    assert (groups.key_heads(), groups.value_heads()) == (2, 3)
    key, value = torch.randn(2, 2, 5, 4), torch.randn(2, 3, 5, 4)
    by_group = groups.by_group(key, value)
    for group, (a, b) in enumerate(heads):
        assert torch.equal(by_group[0][:, group], key[:, a]) and torch.equal(by_group[1][:, group], value[:, b])


def test_gradients_maps_and_saving_again(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen2")
    write(parent, folder, tmp_path / "out", APART, "ragged")
    model = load_trusted(tmp_path / "out", attn_implementation="eager")
    maps = model(some_ids(), output_attentions=True).attentions
    assert [tuple(layer.shape) for layer in maps] == [(2, 6, 24, 24)] * 2
    model.train()(some_ids(), labels=some_ids()).loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if "embed" not in n)
    model.save_pretrained(tmp_path / "again")
    assert_same(parent, load_trusted(tmp_path / "again"), APART)


def test_config_and_weights_in_the_folder(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", **SOURCES["gqa"])
    write(parent, folder, tmp_path / "out", APART, "ragged")
    config, stored = config_of(tmp_path / "out"), stored_tensors(tmp_path / "out")
    assert config["num_key_value_heads_per_layer"] == [2, 4]
    for layer, partitions in enumerate(APART):
        prefix = f"model.layers.{layer}.self_attn."
        assert stored[f"{prefix}k_proj.weight"].shape[0] == 8 * partitions.keys.num_groups
        assert stored[f"{prefix}v_proj.weight"].shape[0] == 8 * partitions.values.num_groups
        heads = config["kv_group_heads"][layer]  # type: ignore[index]
        sizes = config["kv_group_sizes"][layer]  # type: ignore[index]
        assert [(tuple(read), size) for read, size in zip(heads, sizes, strict=True)] == [
            (read, 2 * len(of)) for read, of in read_together(partitions)
        ]
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "6 KV heads per layer became 2 to 4 key and 2 to 3 value" in card and "45.8% of the parent's" in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_group_heads": [[[0, 0]]]}, "kv_group_heads must list one entry for each of the 2 layers"),
        ({"kv_group_heads": [[[0, 0]], [[0, 0]]]}, r"kv_group_heads\[0\] must have an entry for each of 4 groups"),
        ({"kv_group_heads": [[0, 0, 1, 1], []]}, r"kv_group_heads\[0\] must list pairs \[key head, value head\]"),
        ({"num_key_value_heads_per_layer": [3, 4]}, r"kv_group_heads\[0\] must name each of 3 key heads"),
        ({"kv_group_heads": None}, r"num_key_value_heads_per_layer\[0\] is 2, kv_group_sizes has 4"),
    ],
)
def test_bad_configs_are_refused_when_read(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", APART, "ragged")
    edit_config(tmp_path / "out", **changes)
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "stock"}, r"layout stock: keys and values were grouped apart .*one KV head, key and value"),
        ({"layout": "deci"}, r"layout deci: keys and values were grouped apart"),
        ({"target": "vllm"}, r"target vllm: keys and values were grouped apart .*Use --target transformers"),
        ({"target": "llama.cpp"}, r"target llama.cpp: keys and values were grouped apart"),
        ({"target": "any"}, r"target any: keys and values were grouped apart"),
    ],
)
def test_other_layouts_and_engines_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_layout(APART, SHAPE, **options)
    assert plan_layout(APART, SHAPE, target="transformers").reason.endswith("For transformers.")


def test_an_architecture_without_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"BertForMaskedLM has no layout for keys and values .*; LlamaForCausalLM, "):
        plan_layout(APART, SHAPE, "auto", {"architectures": ["BertForMaskedLM"]})


def test_every_family_with_rope_has_it() -> None:
    tiny = {type(tiny_model(name)).__name__ for name in GROUPED_NAMES}
    assert tiny <= {name for name, module in RAGGED_MODULES.items() if module in SEPARATE_MODULES}
