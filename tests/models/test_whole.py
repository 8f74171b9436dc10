"""What is read from a checkpoint's files is what transformers runs: which files count, and that nothing is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForMaskedLM

from gqasearch.errors import UserError
from gqasearch.models import ModelSource, load_model, load_parent, read_config
from tests.checkpoints.convert import SYMMETRIC, convert, load, reference, some_ids, stored_tensors
from tests.models.folders import INDEX, SINGLE, assert_read_as_transformers_does, put, split, write_index
from tests.tiny_encoders import tiny_encoder
from tests.tiny_models import ALL_FAMILY_NAMES, MORE_FAMILY_NAMES, edit_config, save_checkpoint, tiny_model

Tensors = dict[str, Tensor]
K0, NORM, HEAD = "model.layers.0.self_attn.k_proj.weight", "model.norm.weight", "lm_head.weight"
LAYER = "model.layers.0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tiny_model("llama"), tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "source"))


def changed(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """The folder with other tensors."""
    put(folder, SINGLE, change(load_file(folder / SINGLE)))
    return folder


def other(tensors: Tensors) -> Tensors:
    return {name: tensor + 1 for name, tensor in tensors.items()}


# Which files count


def single_beside_shards(folder: Path) -> None:
    split(folder, other(load_file(folder / SINGLE)))


def stale_index(folder: Path) -> None:
    for shard in split(folder, load_file(folder / SINGLE)):
        (folder / shard).unlink()


def index_omits(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    split(folder, tensors)
    listed = json.loads((folder / INDEX).read_text())["weight_map"]
    mlp = f"{LAYER}.mlp.up_proj.weight"
    write_index(folder, {name: shard for name, shard in listed.items() if name not in (HEAD, NORM, mlp, K0)})


def index_errs(folder: Path) -> None:
    """It puts a tensor into the shard that does not hold it, and names one that nothing holds."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    first, second = split(folder, tensors)
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    write_index(folder, {**places, NORM: first if places[NORM] == second else second, "model.gone.weight": first})


def same_copy(folder: Path) -> None:
    """A tensor lies in both shards, and a third is empty."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    first, second = split(folder, tensors)
    for shard in (first, second):
        put(folder, shard, {**load_file(folder / shard), NORM: tensors[NORM]})
    put(folder, "model-empty.safetensors", {})
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    write_index(folder, {**places, "nothing": "model-empty.safetensors"})


def links(folder: Path) -> None:
    """As in the hub's cache."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("..") / "blobs" / str(number))


def unlisted_leftovers(folder: Path) -> None:
    put(folder, "model.fp16.safetensors", other(load_file(folder / SINGLE)))
    put(folder, "consolidated.safetensors", other(load_file(folder / SINGLE)))
    (folder / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


ARRANGEMENTS = [single_beside_shards, stale_index, index_omits, index_errs, same_copy, links, unlisted_leftovers]


@pytest.mark.parametrize("arrange", ARRANGEMENTS)
def test_the_same_tensors_are_read_as_transformers_reads(arrange: Callable[[Path], None], folder: Path) -> None:
    before = load_parent(str(folder)).fingerprint
    arrange(folder)
    assert_read_as_transformers_does(folder)
    parent = load_parent(str(folder))
    assert parent.fingerprint == ModelSource(folder, "").fingerprint == before
    out = folder.parent / "out"
    convert(parent, folder, out, SYMMETRIC)
    with torch.no_grad(), reference(parent, SYMMETRIC) as tied:
        assert torch.allclose(load(out)(some_ids()).logits, tied(some_ids()).logits, atol=2e-5)
    names = stored_tensors(out).keys()
    assert names == parent.model.state_dict().keys()
    if (out / INDEX).is_file():
        assert json.loads((out / INDEX).read_text())["weight_map"].keys() == names
    assert (out / INDEX).is_file() != (out / SINGLE).is_file()


def test_a_stale_copy_in_another_shard_is_named_with_both_files(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    first, second = split(folder, tensors)
    for shard in (first, second):
        copy = {NORM: tensors[NORM] + (shard == first)}
        put(folder, shard, load_file(folder / shard) | copy)
    match = rf"tensor {NORM} lies in {first} and, with other values, in {second}; remove"
    for read in (lambda: ModelSource(folder, "").fingerprint, lambda: load_parent(str(folder))):
        with pytest.raises(UserError, match=match):
            read()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {NORM: "a.safetensors"}}, 'has no "metadata" object'),
        ({"metadata": {}, "weight_map": {}}, "names no files"),
        ({"metadata": {}, "weight_map": {NORM: "pytorch_model.bin"}}, "ends in .safetensors"),
        ({"metadata": {}, "weight_map": {NORM: "part/a.safetensors"}}, "no plain file name"),
        ({"metadata": {}, "weight_map": {NORM: None}}, "shard 'None' is no plain file name"),
    ],
)
def test_an_index_that_transformers_reads_otherwise_or_not_at_all(
    index: dict[str, Any], message: str, folder: Path
) -> None:
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        _ = ModelSource(folder, "").tensors


# All of the model, and nothing else


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def with_more(**more: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name.replace("__", "."): tensor for name, tensor in more.items()}


ONE = torch.ones(48)
SCALE = torch.ones(6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(HEAD), rf"does not hold the LlamaForCausalLM of its config.json: it has no tensor {HEAD}$"),
        (without(f"{LAYER}.mlp.up_proj.weight"), rf"it has no tensor {LAYER}.mlp.up_proj.weight$"),
        (without(NORM, HEAD, K0, f"{LAYER}.input_layernorm.weight"), "it has no tensor .*, .*, .* and 1 more$"),
        (with_more(**{f"{LAYER}.self_attn.q_proj.bias": ONE}), rf"no such model has {LAYER}.self_attn.q_proj.bias$"),
        (with_more(**{f"{LAYER}.self_attn.q_norm.weight": ONE}), rf"no such model has {LAYER}.self_attn.q_norm.weight"),
        (with_more(**{f"{LAYER}.self_attn.q_proj.lora_A.weight": ONE}), "adapter such as LoRA.*merge_and_unload"),
        (with_more(**{"base_model.model.lm_head.weight": ONE}), "adapter such as LoRA"),
        (with_more(**{f"{LAYER}.self_attn.k_scale": SCALE}), "scales of an FP8 cache.*remove them first"),
        (with_more(**{f"{LAYER}.self_attn.k_proj.k_scale": SCALE}), "scales of an FP8 cache"),
        (with_more(**{f"{LAYER}.self_attn.kv_scale": SCALE[0]}), "scales of an FP8 cache"),
        (with_more(**{f"{LAYER}.self_attn.prob_output_scale": SCALE[0]}), "scales of an FP8 cache"),
        (with_more(**{f"{LAYER}.mlp.up_proj.qweight": ONE.int()}), "is quantised; .* give the one that it was made"),
        (lambda t: t | {NORM: t[NORM].to(torch.int8)}, rf"{NORM} is stored as I8; gqasearch converts unquantised"),
        (lambda t: t | {HEAD: t[HEAD].to(torch.float8_e4m3fn)}, rf"{HEAD} is stored as F8_E4M3; gqasearch converts"),
        (lambda t: t | {HEAD: t[HEAD][:-1]}, rf"{HEAD} is stored as \[259?\d*, 48\], config.json makes it \["),
        (
            lambda t: t | {"norm.weight": t[NORM].clone()},
            r"norm.weight and .*norm.weight are the same weight",
        ),
    ],
)
def test_weights_of_another_model_are_refused_whatever_reads_them(
    change: Callable[[Tensors], Tensors], message: str, folder: Path
) -> None:
    """Where the model is loaded, and where it never is."""
    changed(folder, change)
    with pytest.raises(UserError, match=message) as streamed:
        _ = ModelSource(folder, "").tensors
    with pytest.raises(UserError) as loaded:
        load_model(folder, torch.float32, "cpu")
    assert str(loaded.value) == str(streamed.value)
    assert "\n" not in str(loaded.value)


@pytest.mark.parametrize("family", [*ALL_FAMILY_NAMES, *MORE_FAMILY_NAMES])
def test_layers_cut_by_hand_are_counted(family: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_model(family), tmp_path / "model")
    field = next(name for name in ("n_layer", "num_hidden_layers") if name in read_config(folder))
    for said in (1, 3, 10**9):
        edit_config(folder, **{field: said})
        with pytest.raises(UserError, match=rf"config.json says {field} {said}, but the weights hold 2 \(0 to 1\) lay"):
            load_parent(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "names the architecture LlamaForCausalLM, but its model_type 'mistral' makes"),
        ({"model_type": None}, 'has no model_type, which transformers goes by; add "model_type": "llama"'),
        ({"rms_norm_eps": -100.0}, "computes NaN or infinite values in"),
        ({"hidden_act": "gelux"}, "cannot load .*: .*gelux"),
    ],
)
def test_a_config_of_a_model_that_is_another_or_none(changes: dict[str, Any], message: str, folder: Path) -> None:
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=message) as refused:
        load_parent(str(folder))
    assert "\n" not in str(refused.value)


def test_a_model_that_loads_and_does_not_run(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_model("opt"), tmp_path / "model")
    edit_config(folder, dropout=6.0)
    with pytest.raises(UserError, match="does not run: dropout probability has to be between 0 and 1, but got 6"):
        load_parent(str(folder))


def test_a_tied_head_may_be_stored_or_not(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_model("llama", tied=True), tmp_path / "model")
    embeddings = load_file(folder / SINGLE)["model.embed_tokens.weight"]
    _ = ModelSource(folder, "").tensors
    changed(folder, lambda tensors: tensors | {HEAD: embeddings.clone()})
    _ = ModelSource(folder, "").tensors
    changed(folder, without("model.embed_tokens.weight"))
    assert_read_as_transformers_does(folder)
    changed(folder, without(HEAD))
    with pytest.raises(UserError, match=r"it has no tensor lm_head.weight, model.embed_tokens.weight$"):
        _ = ModelSource(folder, "").tensors


# What published checkpoints carry beside the model

PUBLISHED: dict[str, Callable[[Tensors], Tensors]] = {
    "llama": lambda t: t | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)},
    "gpt_neox": lambda t: (
        t
        | {f"gpt_neox.layers.{i}.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool) for i in range(2)}
        | {f"gpt_neox.layers.{i}.attention.masked_bias": torch.tensor(-1e9) for i in range(2)}
    ),
    "gpt2": lambda t: (
        t
        | {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 8, 8) for i in range(2)}
        | {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    ),
    "opt": lambda t: t | {"model.decoder.version": torch.tensor([3.0])},
    "falcon": lambda t: t | {f"transformer.h.{i}.self_attention.rotary.inv_freq": torch.ones(4) for i in range(2)},
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_buffers_of_older_versions_are_no_other_network(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    folder = changed(save_checkpoint(model, tmp_path / "model"), PUBLISHED[family])
    parent = load_parent(str(folder))
    with torch.no_grad():
        assert torch.equal(parent.model(some_ids()).logits, model(some_ids()).logits)
    convert(parent, folder, tmp_path / "out", SYMMETRIC)


def as_bert_was_published(tensors: Tensors) -> Tensors:
    """bert-base-uncased: LayerNorm's old names, a pooler, the head for sentences, the output's bias once."""
    renamed = {
        re.sub("LayerNorm.weight$", "LayerNorm.gamma", re.sub("LayerNorm.bias$", "LayerNorm.beta", name)): tensor
        for name, tensor in tensors.items()
        if name not in ("cls.predictions.decoder.bias", "cls.predictions.decoder.weight")
    }
    pooler = {"bert.pooler.dense.weight": torch.ones(48, 48), "bert.pooler.dense.bias": torch.ones(48)}
    sentences = {"cls.seq_relationship.weight": torch.ones(2, 48), "cls.seq_relationship.bias": torch.ones(2)}
    return renamed | pooler | sentences | {"bert.embeddings.position_ids": torch.arange(130)[None]}


def test_bert_as_it_was_published(tmp_path: Path) -> None:
    model = tiny_encoder("bert")
    model.save_pretrained(tmp_path / "model")
    folder = changed(tmp_path / "model", as_bert_was_published)
    edit_config(folder, architectures=["BertForPreTraining"], tie_word_embeddings=True)
    stock, loaded = AutoModelForMaskedLM.from_pretrained(folder), load_model(folder, torch.float32, "cpu")
    assert torch.equal(
        ModelSource(folder, "").layer(1).k, loaded.bert.encoder.layer[1].attention.self.key.weight.view(6, 8, 48)
    )
    with torch.no_grad():
        assert torch.equal(loaded(some_ids()).logits, stock(some_ids()).logits)
