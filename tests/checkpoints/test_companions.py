"""What lies beside the weights comes along, and the tokenizer that is loaded from it is the source's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoTokenizer

from gqasearch.checkpoints import write_healed
from gqasearch.checkpoints.folder import copy_companions
from gqasearch.errors import UserError
from gqasearch.models.companions import WANTED_FILES, companions
from gqasearch.models.loading import load_model, load_tokenizer
from tests.checkpoints.convert import SYMMETRIC, convert
from tests.checkpoints.uneven import UNEVEN, saved

# What the slow and fast tokenizers of transformers call their files, and what goes with any.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "dict.txt", "emoji.json", "entity_vocab.json"),
    *("sentencepiece.bpe.model", "sentencepiece.model", "spiece.model", "spm.model", "spm_char.model", "source.spm"),
    *(
        "target.spm",
        "target_vocab.json",
        "vocab-src.json",
        "normalizer.json",
        "prophetnet.tokenizer",
        "word_shape.json",
    ),
    *("tokenizer.model.v3", "qwen.tiktoken", "chat_template.jinja", "chat_template.json"),
    *("additional_chat_templates/rag.jinja", "generation_config.json", "LICENSE", "LICENSE.txt", "NOTICE"),
)
STAYS = (
    *("config.json", "README.md", "grouping.json", "model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "consolidated.00.pth", "tf_model.h5", "flax_model.msgpack", "model.gguf", "optimizer.pt"),
    *("rust_model.ot", "training_args.bin", "state.pkl", "modeling_own.py", "lib.so", "weights.npz", "run.sh"),
    *(".gitattributes", ".git/config", "onnx/model.onnx", "onnx/tokenizer.json", "original/params.json"),
    "original/consolidated.00.pth",
)


def _folder_with(path: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    return path


def test_all_that_is_no_weights_and_no_code_comes_along(tmp_path: Path) -> None:
    source = _folder_with(tmp_path / "source", (*TOKENIZER_FILES, *STAYS, "USE_POLICY.md", "preprocessor_config.json"))
    copy_companions(source, tmp_path)
    source.rename(tmp_path.parent / f"{tmp_path.name}-source")
    copied = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert copied == {*TOKENIZER_FILES, "USE_POLICY.md", "preprocessor_config.json"}


@pytest.mark.parametrize("name", TOKENIZER_FILES)
def test_what_comes_along_is_asked_of_the_hub(name: str) -> None:
    assert list(filter_repo_objects([name, "pytorch_model.bin"], allow_patterns=WANTED_FILES)) == [name]


def test_links_lead_out_only_where_they_are_asked_for(tmp_path: Path) -> None:
    """A folder of links to a model, and the hub's cache, are as good as the files; a stray link gives nothing away."""
    elsewhere = _folder_with(tmp_path / "blobs", ("tokenizer.json", "secret", "notes.txt"))
    source = tmp_path / "mine"
    source.mkdir()
    for name in ("tokenizer.json", "secret"):
        (source / name).symlink_to(elsewhere / name)
    (source / "all").symlink_to(elsewhere)
    assert [path.name for path in companions(source)] == ["tokenizer.json"]
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "notes.txt").symlink_to(elsewhere / "notes.txt")
    assert [path.name for path in companions(snapshot)] == ["notes.txt"]


def test_another_chat_template_comes_along_and_through_healing(tmp_path: Path) -> None:
    parent, source = saved(tmp_path, "llama")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "rag.jinja").write_text("{{ messages[0].content }}")
    convert(parent, source, tmp_path / "out", SYMMETRIC)
    write_healed(tmp_path / "out", tmp_path / "healed", load_model(tmp_path / "out", parent.model.dtype, "cpu"), "")
    for folder in (tmp_path / "out", tmp_path / "healed"):
        assert AutoTokenizer.from_pretrained(folder).chat_template == {"rag": "{{ messages[0].content }}"}


def test_another_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, source = saved(tmp_path, "llama")

    def without_templates(source: Path, target: Path) -> None:
        copy_companions(source, target)
        (target / "chat_template.jinja").unlink()

    (source / "chat_template.jinja").write_text("{{ messages[0].content }}")
    monkeypatch.setattr("gqasearch.checkpoints.stock.copy_companions", without_templates)
    with pytest.raises(UserError, match="the chat template differ"):
        convert(parent, source, tmp_path / "out", SYMMETRIC)

    def other_tokens(source: Path, target: Path) -> None:
        copy_companions(source, target)
        tokenizer = json.loads((target / "tokenizer.json").read_text())
        vocab = tokenizer["model"]["vocab"]
        vocab["e"], vocab["t"] = vocab["t"], vocab["e"]
        (target / "tokenizer.json").write_text(json.dumps(tokenizer))

    monkeypatch.setattr("gqasearch.checkpoints.stock.copy_companions", other_tokens)
    with pytest.raises(UserError, match="the tokens of a sample differ"):
        convert(parent, source, tmp_path / "out", SYMMETRIC)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["gpt_neox", "falcon", "llama", "gpt2"])
def test_the_tokenizer_does_not_hang_on_the_architecture(family: str, tmp_path: Path) -> None:
    """A source that names no class of tokenizer, written as another architecture."""
    parent, source = saved(tmp_path, family)
    path = source / "tokenizer_config.json"
    told = {name: value for name, value in json.loads(path.read_text()).items() if name != "tokenizer_class"}
    path.write_text(json.dumps(told))
    convert(parent, source, tmp_path / "out", SYMMETRIC)


@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "LlamaTokenizerFast"])
def test_a_class_that_transformers_chooses_by_the_model_type_stays(named: str, tmp_path: Path) -> None:
    """Of a Qwen2, transformers 5 takes the class of that model, whatever is named; a ragged one is no Qwen2."""
    parent, source = saved(tmp_path, "qwen2")
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": named}))
    convert(parent, source, tmp_path / "out", UNEVEN)
    first, second = (load_tokenizer(folder) for folder in (source, tmp_path / "out"))
    assert type(first) is type(second)
    assert first("def f(x): 12")["input_ids"] == second("def f(x): 12")["input_ids"]
