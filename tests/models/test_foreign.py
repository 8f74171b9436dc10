"""Folders that hold something else than a plain checkpoint: each is answered with what it is, before it is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.errors import UserError
from gqasearch.models import ModelSource, load_parent
from tests.models.folders import INDEX, SINGLE
from tests.tiny_models import edit_config, save_checkpoint, tiny_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 123456789\n"
Spoil = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tiny_model("llama"), tmp_path_factory.mktemp("whole") / "model")


def quantised(field: str = "quantization_config", **config: str) -> Spoil:
    return lambda folder: edit_config(folder, **{field: config})


def file(name: str, content: str = "{}", *, instead_of: str | None = None) -> Spoil:
    def spoil(folder: Path) -> None:
        if instead_of is not None:
            (folder / instead_of).unlink()
        (folder / name).write_text(content)

    return spoil


def lora(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "adapter_model.safetensors")
    file("adapter_config.json", instead_of="config.json")(folder)


def index_is_a_pointer(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(POINTER)


CASES: dict[str, tuple[Spoil, str]] = {
    **{
        method: (quantised(quant_method=method), rf"is quantised \(quantization_config .* quant_method {method}\)")
        for method in ("gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "mxfp4")
    },
    "unnamed": (quantised(bits="4"), r"is quantised .*not named.*give the one that it was made from"),
    "older": (quantised("compression_config", quant_method="x"), r"is quantised \(compression_config"),
    "nested": (lambda f: edit_config(f, text_config={"quantization_config": {"quant_method": "awq"}}), "is quantised"),
    "lora": (lora, "is no checkpoint: it is an adapter such as LoRA .* merge it into its base model first .peft"),
    "lora beside": (file("adapter_config.json"), r"is a model with an adapter such as LoRA beside it .* merge it into"),
    "gguf": (file("model-Q4_0.gguf", instead_of=SINGLE), r"holds no weights: it has only GGUF weights \(model-Q4_0"),
    "gguf alone": (
        lambda f: (file("m.gguf", instead_of=SINGLE)(f), (f / "config.json").unlink(), None)[-1],
        "is no checkpoint: it has only GGUF weights",
    ),
    "pickled": (file("pytorch_model.bin", instead_of=SINGLE), r"only pickled weights \(pytorch_model.bin\)"),
    "variant": (
        lambda f: (f / SINGLE).rename(f / "model.fp16.safetensors") and None,
        "holds no weights: it has model.fp16.safetensors, but neither",
    ),
    "nothing": (lambda f: (f / SINGLE).unlink(), "holds no weights: it has no model.safetensors or model.saf"),
    "named": (lambda f: edit_config(f, transformers_weights="x.safetensors"), "transformers_weights 'x.safetensors'"),
    "processes": (file("shard-00001-model-00001-of-00001.safetensors"), "was saved from several processes"),
    "pointer: weights": (file(SINGLE, POINTER), "model.safetensors is a Git LFS pointer, not the content: .*lfs pull"),
    "pointer: index": (index_is_a_pointer, "model.safetensors.index.json is a Git LFS pointer"),
    "pointer: config": (file("config.json", POINTER), "config.json is a Git LFS pointer"),
    "pointer: words": (file("tokenizer.json", POINTER), "tokenizer.json is a Git LFS pointer"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_said_what_the_folder_is(case: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    spoil, message = CASES[case]
    spoil(folder)
    with pytest.raises(UserError, match=message) as streamed:
        _ = ModelSource(folder, "").tensors
    with pytest.raises(UserError) as loaded:
        load_parent(str(folder))
    assert str(loaded.value) == str(streamed.value) and "\n" not in str(loaded.value)


def test_pointers_that_nothing_reads_do_no_harm(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    for name in ("pytorch_model.bin", "consolidated.safetensors", "figure.png", "trainer_state.json"):
        (folder / name).write_text(POINTER)
    edit_config(folder, quantization_config=None)
    assert load_parent(str(folder)).fingerprint == ModelSource(whole, "").fingerprint


@pytest.mark.parametrize("verb", ["search", "materialize", "validate", "import"])
def test_every_verb_says_it_in_one_line(verb: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    grouping, map_ = tmp_path / "grouping.json", tmp_path / "map.json"
    export = ["--format", "head-map", "-o", str(map_)]
    layers = [{"groups": [[0, 1], [2, 3], [4, 5]]}] * 2
    shape = {"num_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 8}
    record = {"id": "m", "architecture": "LlamaForCausalLM", "fingerprint": ModelSource(whole, "").fingerprint, **shape}
    document = {"format": "gqasearch-grouping", "version": 1, "model": record, "layers": layers}
    grouping.write_text(json.dumps({**document, "kv_heads_total": 6, "kv_ratio": 0.5, "merge": {"name": "mean"}}))
    out = str(tmp_path / "out")
    arguments = {
        "search": ["--output-dir", out, "--block-length", "64"],
        "materialize": [str(grouping), "--output-dir", out],
        "validate": [str(grouping)],
        "import": [str(map_), *export[:2], "-o", str(tmp_path / "imported.json")],
    }[verb]
    if verb == "import":
        assert CliRunner().invoke(app, ["export", str(grouping), *export]).exit_code == 0
    call = [verb, *arguments, "--model", str(folder)]
    edit_config(folder, num_hidden_layers=2, vocab_size=300)
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 2 and "config.json makes it [300, 48]" in result.output, result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
