"""OPT and GPT-2, which have no grouped form of their own: every grouping is written as a ragged checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gqasearch.checkpoints.remote import modeling_ragged_learned as code
from gqasearch.config import build_config
from gqasearch.evaluation import cached_kv_heads, kv_bytes_per_token
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import Parent, load_parent
from gqasearch.steps import Workspace, materialize
from tests.checkpoints.convert import PADDED, SYMMETRIC, document_for, some_ids, stored_tensors
from tests.checkpoints.uneven import ROUNDING, UNEVEN, assert_same, load_trusted, saved, write
from tests.models.test_more_families import picked
from tests.tiny_models import save_checkpoint, tiny_model

FAMILIES = ("opt", "gpt2")
FILE = "modeling_ragged_learned.py"
INDEX = "model.safetensors.index.json"
ALONE = Grouping.uniform(LayerGrouping.singletons(6), 2)
EXTREMES = Grouping.from_labels([[0] * 6, list(range(6))])


def written(tmp_path: Path, family: str, grouping: Grouping = UNEVEN, **options: Any) -> tuple[Parent, Path]:
    parent, folder = saved(tmp_path, family, **options)
    assert write(parent, folder, tmp_path / "out", grouping, "auto").name == "ragged"
    return parent, tmp_path / "out"


def logits(model: PreTrainedModel, ids: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids, **options).logits
    return found


# It is the parent with tied heads


@pytest.mark.parametrize(
    "grouping", [UNEVEN, SYMMETRIC, PADDED, EXTREMES], ids=["uneven", "equal", "sizes", "extremes"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_grouping_equals_the_parent_with_tied_heads(family: str, grouping: Grouping, tmp_path: Path) -> None:
    parent, out = written(tmp_path, family, grouping)
    model = load_trusted(out)
    assert_same(parent, model, grouping)
    assert cached_kv_heads(model) == list(grouping.group_counts)
    assert kv_bytes_per_token(model) == grouping.kv_bytes_per_token(8, 4)
    assert kv_bytes_per_token(parent.model) == 12 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("opt", {"tied": True}),
        ("opt", {"word_embed_proj_dim": 20, "do_layer_norm_before": False}),  # as OPT-350M
        ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False}),  # as Galactica
        ("opt", {"activation_function": "gelu", "_remove_final_layer_norm": True}),
        ("gpt2", {"tied": True}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),  # as Mistral's GPT-2
        ("gpt2", {"scale_attn_weights": False, "activation_function": "relu"}),
    ],
)
def test_variants_of_the_families(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    parent, out = written(tmp_path, family, **options)
    assert_same(parent, load_trusted(out), UNEVEN)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_cache_and_maps(family: str, implementation: str, tmp_path: Path) -> None:
    """Token by token with a cache gives what the whole text at once gives; the maps are those of the query heads."""
    options = {"reorder_and_upcast_attn": True} if family == "gpt2" else {}
    parent, out = written(tmp_path, family, **options)
    model, ids, cache = load_trusted(out, attn_implementation=implementation), some_ids(), None
    assert_same(parent, model, UNEVEN)
    steps = []
    for token in ids.split(1, dim=1):
        with torch.no_grad():
            step = model(token, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        steps.append(step.logits)
    assert float((torch.cat(steps, 1) - logits(model, ids)).abs().max()) <= ROUNDING
    if implementation == "eager":
        maps = model(ids, output_attentions=True).attentions
        assert [tuple(layer.shape) for layer in maps] == [(2, 6, 24, 24)] * 2
        assert all(torch.allclose(layer.sum(-1), torch.ones(2, 6, 24)) for layer in maps)


@pytest.mark.parametrize("family", FAMILIES)
def test_single_heads_in_any_order_leave_the_model_as_it_is(family: str, tmp_path: Path) -> None:
    """No merge at all: bytes that stay, and the same logits with the heads in another order."""
    source = save_checkpoint(tiny_model(family), tmp_path / "source")
    parent = load_parent(str(source))
    work = Workspace(build_config({"model": str(source), "merge": "mean"}))
    document = document_for(parent, ALONE)
    materialize(work, document, tmp_path / "alone")
    before, after = stored_tensors(source), stored_tensors(tmp_path / "alone")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    model = load_trusted(tmp_path / "alone")
    assert float((logits(model, some_ids()) - logits(parent.model, some_ids())).abs().max()) <= 1e-5
    with torch.no_grad():
        for index in range(2):
            shuffled = picked(parent.layer(index), [3, 1, 5, 0, 2, 4])
            for name, tensor in parent.family.write_layer(shuffled, index).items():
                model.get_parameter(name).copy_(tensor)
    assert float((logits(model, some_ids()) - logits(parent.model, some_ids())).abs().max()) <= 1e-5


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str, stored: torch.dtype, tmp_path: Path) -> None:
    parent, out = written(tmp_path, family, dtype=stored)  # the parent is loaded, and merged, in float32
    assert {tensor.dtype for tensor in stored_tensors(out).values()} == {stored}
    model, ids = load_trusted(out), torch.ones(2, 6, dtype=torch.long)
    assert model.dtype == stored
    assert model.generate(ids, attention_mask=ids, max_new_tokens=3, min_new_tokens=3).shape == (2, 9)
    assert_same(parent, model.float(), UNEVEN, stored)


def test_upcast_scores_do_not_overflow_float16(tmp_path: Path) -> None:
    """What ``reorder_and_upcast_attn`` is for, and what the cache holds stays in the model's type."""
    source = tiny_model("gpt2", scale_attn_weights=False, reorder_and_upcast_attn=True)
    with torch.no_grad():
        source.transformer.h[0].attn.c_attn.weight[:, :96] *= 300.0  # q and k
    folder = save_checkpoint(source.half(), tmp_path / "source")
    parent = load_parent(str(folder))
    write(parent, folder, tmp_path / "out", ALONE, "ragged")
    model = load_trusted(tmp_path / "out", attn_implementation="eager")
    out = model(some_ids(), use_cache=True)
    assert bool(out.logits.isfinite().all()) and out.past_key_values.layers[0].keys.dtype == torch.float16
    for block in model.transformer.h:
        block.attn.eager = code.eager_attention_forward
    assert not bool(logits(model, some_ids()).isfinite().all())


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_again_it_is_the_same_model_with_its_code(family: str, tmp_path: Path) -> None:
    parent, out = written(tmp_path, family)
    load_trusted(out).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (out / FILE).read_bytes()
    first, second = stored_tensors(out), stored_tensors(tmp_path / "again")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert_same(parent, load_trusted(tmp_path / "again"), UNEVEN)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_weight_also_after_inference(family: str, tmp_path: Path) -> None:
    _, out = written(tmp_path, family)
    model, ids = load_trusted(out).train(), torch.arange(2, 22).view(1, 20)
    with torch.inference_mode():
        model(ids)
    model(ids, labels=ids).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())}
    assert without == set()
