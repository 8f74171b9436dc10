"""Models that read images, too: every layout of their text towers, and all else byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from gqasearch.checkpoints.heads_in_config import kv_heads_of, query_heads_of
from gqasearch.cli.app import app
from gqasearch.doctor import Patient, examine
from gqasearch.errors import UserError
from gqasearch.evaluation.memory import cached_kv_heads
from gqasearch.grouping import Grouping
from gqasearch.models import family_of, load_parent, read_config
from tests.checkpoints import test_stock
from tests.checkpoints.convert import (
    PADDED,
    SYMMETRIC,
    config_of,
    convert,
    reference,
    stored_tensors,
)
from tests.checkpoints.test_ragged_separate import APART
from tests.checkpoints.uneven import SOURCES, UNEVEN, assert_same, assert_unchanged, load_trusted, saved, write
from tests.matrix import sampled
from tests.samples import text_file
from tests.tiny_models import edit_config, save_checkpoint, tiny_model
from tests.tiny_towers import SEEING_NAMES, TOWER_NAMES, with_image

SAMPLE = ["gemma3", "qwen2_5_vl", "qwen3_vl", "llava-llama", "smolvlm"]
NAMES = sampled(TOWER_NAMES, [*SAMPLE, "mllama"])
NEVER_STOCK = "mllama"
STOCK_NAMES = sampled((name for name in TOWER_NAMES if name != NEVER_STOCK), SAMPLE)
WIDTHS: dict[str, dict[str, Any]] = {"gemma3": {"hidden": 72}}  # which 9 slots divide
NEVER_PADDED = ("qwen2_vl", "qwen2_5_vl")
PADDED_NAMES = sampled(
    (name for name in TOWER_NAMES if name not in (*NEVER_PADDED, NEVER_STOCK)), ["gemma3", "llava-llama"]
)


@pytest.mark.parametrize("family", NAMES)
def test_merge_without_effect_gives_the_parent_itself(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    assert_unchanged(parent, folder, tmp_path / "out", load_trusted)


@pytest.mark.parametrize("family", STOCK_NAMES)
def test_symmetric_checkpoint_of_a_gqa_source(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, heads=12, kv_heads=6)
    (folder / "preprocessor_config.json").write_text('{"image_size": 28}')
    assert convert(parent, folder, tmp_path / "out", SYMMETRIC).name == "stock-symmetric"
    before, after = config_of(folder), config_of(tmp_path / "out")
    assert {name: after[name] for name in ("architectures", "vision_config")} == {
        name: before[name] for name in ("architectures", "vision_config")
    }
    written, stored = stored_tensors(tmp_path / "out"), stored_tensors(folder)
    changed = {name for name, tensor in stored.items() if not torch.equal(written[name], tensor)}
    assert all("self_attn" in name and "vision" not in name and "visual" not in name for name in changed)
    assert len([name for name in changed if name.endswith("k_proj.weight")]) == 2
    assert (tmp_path / "out" / "preprocessor_config.json").read_text() == '{"image_size": 28}'
    test_stock.assert_same(parent, tmp_path / "out", SYMMETRIC)


@pytest.mark.parametrize("grouping", [SYMMETRIC, UNEVEN], ids=["stock", "ragged"])
@pytest.mark.parametrize("family", sampled(SEEING_NAMES, ["gemma3", "qwen2_5_vl", "qwen3_vl", "mllama"]))
def test_an_image_is_read_as_by_the_parent_with_tied_heads(family: str, grouping: Grouping, tmp_path: Path) -> None:
    """Where a token's place is one in time, height and width, the keys of all groups are turned by these."""
    parent, folder = saved(tmp_path, family)
    convert(parent, folder, tmp_path / "out", grouping)
    given = with_image(family)
    with torch.no_grad(), reference(parent, grouping) as tied:
        expected, blind = tied(**given).logits, tied(given["input_ids"]).logits
        found = load_trusted(tmp_path / "out")(**given).logits
    assert float((expected - blind).abs().max()) > 0.1
    assert float((found - expected).abs().max()) <= test_stock.ROUNDING


@pytest.mark.parametrize("family", PADDED_NAMES)
def test_padded_checkpoint_of_an_mha_source(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **WIDTHS.get(family, {}))
    assert convert(parent, folder, tmp_path / "out", PADDED).name == "stock-padded"
    assert config_of(tmp_path / "out")["architectures"] == parent.config["architectures"]
    test_stock.assert_same(parent, tmp_path / "out", PADDED)


@pytest.mark.parametrize("family", NEVER_PADDED)
def test_heads_that_cannot_be_added_are_refused_and_ragged_instead(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    with pytest.raises(UserError, match="its head size is always hidden_size / num_attention_heads"):
        convert(parent, folder, tmp_path / "out", PADDED, layout="stock")
    assert convert(parent, folder, tmp_path / "out", PADDED).name == "ragged"
    assert_same(parent, load_trusted(tmp_path / "out"), PADDED)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 10**9}, r"says num_hidden_layers 999999999, but the weights hold 2 \(0 to 2\)"),
        ({"cross_attention_layers": [0]}, "config.json says num_hidden_layers 2, but the weights hold 2"),
        ({"cross_attention_layers": None}, "cross_attention_layers must list layers, got None"),
    ],
)
def test_layers_that_attend_to_an_image_are_those_of_the_files(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = save_checkpoint(tiny_model("mllama"), tmp_path / "source")
    config: dict[str, Any] = config_of(folder)
    edit_config(folder, text_config=config["text_config"] | fields)
    with pytest.raises(UserError, match=message):
        load_parent(str(folder))


def test_layers_that_attend_to_an_image_stay_as_they_are(tmp_path: Path) -> None:
    """And are counted: a grouping has the layers that read text, config.json all of them."""
    parent, folder = saved(tmp_path, "mllama")
    with pytest.raises(UserError, match="one number of KV heads for layers that read text and layers that read images"):
        convert(parent, folder, tmp_path / "out", SYMMETRIC, layout="stock")
    convert(parent, folder, tmp_path / "out", UNEVEN)
    written, stored = stored_tensors(tmp_path / "out"), stored_tensors(folder)
    assert written.keys() == stored.keys()
    changed = {name for name, tensor in stored.items() if not torch.equal(written[name], tensor)}
    own = [f"layers.{layer}.self_attn.{role}_proj.weight" for layer in (0, 2) for role in "qkvo"]
    assert sorted(name.partition("layers.")[2] for name in changed) == [
        name.partition("layers.")[2] for name in sorted(own)
    ]
    config: dict[str, Any] = config_of(tmp_path / "out")
    assert config["num_key_value_heads_per_layer"] == [2, 6, 4]
    assert (kv_heads_of(config), query_heads_of(config)) == ([2, 4], [6, 6])
    said = [finding.words for finding in examine(Patient(tmp_path / "out", "transformers")) if "bytes" in finding.words]
    assert said[0].startswith("384 bytes per token in 32 bits as stored (192 in 16): 2 to 4 KV heads of 8")
    assert said[1] == "384 bytes per token of an image, in layers that are the parent's own"
    assert config["kv_group_sizes"] == [[4, 2], [1] * 6, [3, 1, 1, 1]]
    model, image = load_trusted(tmp_path / "out"), with_image("mllama")
    assert cached_kv_heads(model) == [2, 4]  # of a text alone
    cache = model(**image, use_cache=True).past_key_values
    patches = 5  # of a tile, one of a class before them
    assert [tuple(layer.keys.shape[1:3]) for layer in cache.layers] == [(2, 24), (6, patches), (4, 24)]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("family", NAMES)
def test_layers_with_numbers_of_heads_of_their_own(family: str, source: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **SOURCES[source])
    assert write(parent, folder, tmp_path / "out", UNEVEN, "auto").name == "ragged"
    written = load_trusted(tmp_path / "out", attn_implementation="eager" if source == "gqa" else None)
    assert_same(parent, written, UNEVEN)
    written.save_pretrained(tmp_path / "again")
    assert_same(parent, load_trusted(tmp_path / "again"), UNEVEN)


@pytest.mark.parametrize("family", sampled((name for name in TOWER_NAMES if name != NEVER_STOCK), ["qwen2_5_vl"]))
def test_keys_and_values_that_were_grouped_apart(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    assert write(parent, folder, tmp_path / "out", APART, "auto").name == "ragged"
    assert_same(parent, load_trusted(tmp_path / "out"), APART)


@pytest.mark.parametrize("family", ["gemma3", "llava-llama"])
def test_names_that_other_versions_give_the_tower(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    file = folder / "model.safetensors"
    tensors = {name.replace("language_model.model.", "model.language_model."): t for name, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    convert(load_parent(str(folder)), folder, tmp_path / "out", SYMMETRIC)
    assert stored_tensors(tmp_path / "out").keys() == tensors.keys()
    test_stock.assert_same(parent, tmp_path / "out", SYMMETRIC)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_fields_of_the_tower_beside_those_of_the_whole(family: str, tmp_path: Path) -> None:
    """As Qwen2-VL was published, with RoPE in the words of its time."""
    parent, folder = saved(tmp_path, family)
    config: dict[str, Any] = config_of(folder)
    text = config.pop("text_config")
    text["rope_scaling"] = {"type": "mrope", "mrope_section": text.pop("rope_parameters")["mrope_section"]}
    flat = {**text, **config, "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(flat))
    again = load_parent(str(folder))
    assert again.geometry == parent.geometry
    convert(again, folder, tmp_path / "out", SYMMETRIC)
    test_stock.assert_same(parent, tmp_path / "out", SYMMETRIC)


@pytest.mark.parametrize(
    ("architecture", "kind", "fields", "shape"),
    [
        # google/gemma-3-4b-it
        (
            "Gemma3ForConditionalGeneration",
            "gemma3",
            {"text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}},
            (34, 8, 4, 256, 2560),
        ),
        # llava-hf/llava-1.5-7b-hf
        (
            "LlavaForConditionalGeneration",
            "llava",
            {"text_config": {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}},
            (32, 32, 32, 128, 4096),
        ),
        # meta-llama/Llama-3.2-11B-Vision, but for what it repeats of transformers' defaults
        ("MllamaForConditionalGeneration", "mllama", {"text_config": {}}, (32, 32, 8, 128, 4096)),
        # Qwen/Qwen2-VL-2B-Instruct
        (
            "Qwen2VLForConditionalGeneration",
            "qwen2_vl",
            {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2},
            (28, 12, 2, 128, 1536),
        ),
    ],
)
def test_fields_that_published_files_leave_out(
    architecture: str, kind: str, fields: dict[str, Any], shape: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": [architecture], "model_type": kind, "vision_config": {}, **fields})
    )
    config = read_config(tmp_path)
    found = family_of(config).geometry(config)
    counts = (found.num_layers, found.num_attention_heads, found.num_kv_heads, found.head_dim, found.hidden_size)
    assert counts == shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": "opt"}},
            "is a opt; supported there: llama, mistral, qwen2, qwen3",
        ),
    ],
)
def test_towers_that_cannot_be_grouped_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        family_of(config)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "mllama"])
def test_a_whole_run_on_weights_that_are_read_when_they_are_needed(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics, search, descent and figures; the card says that images were not looked at, and healing refuses."""
    monkeypatch.setattr("gqasearch.models.loading_on_demand.ROOM", 0)
    folder = saved(tmp_path, family)[1]
    command = f"search --model {folder} --calibration-text {text_file(tmp_path)} --kv-ratio 0.5 --block-length 32 -q"
    tokens = " ".join(f"--{name}-tokens 512" for name in ("calibration", "search", "evaluation"))
    out = tmp_path / "run"
    found = CliRunner().invoke(app, f"{command} {tokens} --max-evaluations 20 --output-dir {out}".split())
    assert found.exit_code == 0, found.output
    results = json.loads((out / "metrics.json").read_text())["results"]
    assert results["converted"]["kl"] < results["neighbour"]["kl"]
    card = " ".join((out / "model" / "README.md").read_text().split())
    assert "image-text-to-text" in card and "measured on text alone" in card and "AutoModelForImageTextToText" in card
    healed = CliRunner().invoke(app, ["heal", str(out), "--output-dir", str(tmp_path / "healed")])
    assert healed.exit_code == 2 and "reads images, too, and healing" in " ".join(healed.output.split())
