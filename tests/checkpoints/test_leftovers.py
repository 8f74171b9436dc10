"""What lies in a source's folder beside its model's weights never comes along, and old names and copies do no harm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from gqasearch.checkpoints import write_healed
from gqasearch.models import Parent, load_model, load_parent, read_config
from tests.checkpoints.convert import SYMMETRIC, config_of, convert, load, reference, some_ids, stored_tensors
from tests.models.folders import INDEX, SINGLE, put, split
from tests.models.test_whole import as_bert_was_published
from tests.tiny_encoders import tiny_encoder
from tests.tiny_models import edit_config, save_checkpoint, tiny_model

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def test_a_healed_checkpoint_has_no_weights_but_its_own(tmp_path: Path) -> None:
    source = save_checkpoint(tiny_model("llama"), tmp_path / "source")
    split(source, load_file(source / SINGLE))
    put(source, "consolidated.safetensors", load_file(source / SINGLE))
    (source / "pytorch_model.bin").write_bytes(b"stale")
    (tmp_path / "secret").write_text("of nobody's business")
    (source / "notes.txt").symlink_to(tmp_path / "secret")
    for name in ("optimizer.pkl", ".hidden"):
        (source / name).write_bytes(b"no part of a checkpoint")
    model = load_model(source, torch.float32, "cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    write_healed(source, tmp_path / "single", model, "trained")
    (source / SINGLE).unlink()
    write_healed(source, tmp_path / "shards", model, "trained")
    for folder, shards in ((tmp_path / "single", 1), (tmp_path / "shards", 2)):
        assert len(list(folder.glob("*.safetensors"))) == shards and (folder / INDEX).is_file() == (shards == 2)
        assert (folder / "tokenizer.json").is_file()
        assert not [n for n in ("pytorch_model.bin", "optimizer.pkl", ".hidden", "notes.txt") if (folder / n).exists()]
        with torch.no_grad():
            assert torch.equal(load(folder)(some_ids()).logits, model(some_ids()).logits)


def test_bert_as_it_was_published_converted_and_trained(tmp_path: Path) -> None:
    """LayerNorm's old names, a pooler and another task's head."""
    tiny_encoder("bert").save_pretrained(tmp_path / "source")
    put(tmp_path / "source", SINGLE, as_bert_was_published(load_file(tmp_path / "source" / SINGLE)))
    edit_config(tmp_path / "source", architectures=["BertForPreTraining"], tie_word_embeddings=True)
    config = read_config(tmp_path / "source")
    parent = Parent.from_model(load_model(tmp_path / "source", torch.float32, "cpu"))
    convert(parent, tmp_path / "source", tmp_path / "out", SYMMETRIC, layout="ragged")
    assert config["architectures"] == ["BertForPreTraining"]
    written = load_model(tmp_path / "out", torch.float32, "cpu", trust_remote_code=True)
    with torch.no_grad(), reference(parent, SYMMETRIC) as tied:
        assert torch.allclose(written(some_ids()).logits, tied(some_ids()).logits, atol=2e-5)
        for name, parameter in written.named_parameters():
            parameter.mul_(1.1 if "LayerNorm" in name else 1.0)
    write_healed(tmp_path / "out", tmp_path / "healed", written, "trained")
    healed = AutoModelForMaskedLM.from_pretrained(tmp_path / "healed", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(healed(some_ids()).logits, written(some_ids()).logits)


@pytest.mark.parametrize(("layout", "family"), [("stock", "llama"), ("deci", "llama"), ("stock", "gpt_neox")])
def test_a_head_that_is_stored_apart_stays_apart(layout: str, family: str, tmp_path: Path) -> None:
    """config.json ties it to the embeddings, transformers 5 runs what is stored, other programs would tie it."""
    source = save_checkpoint(tiny_model(family, tied=True), tmp_path / "source")
    tensors = load_file(source / SINGLE)
    embeddings = next(name for name in tensors if "embed_in" in name or "embed_tokens" in name)
    assert HEAD not in tensors
    for name, apart in (("same", 0.0), ("apart", 0.5)):
        put(source, SINGLE, tensors | {HEAD: tensors[embeddings] + apart})
        parent = load_parent(str(source))
        convert(parent, source, tmp_path / name, SYMMETRIC, layout=layout)
        assert config_of(tmp_path / name)["tie_word_embeddings"] is (apart == 0.0)
        written = load_model(tmp_path / name, torch.float32, "cpu", trust_remote_code=layout == "deci")
        with torch.no_grad(), reference(parent, SYMMETRIC) as tied:
            assert torch.allclose(written(some_ids()).logits, tied(some_ids()).logits, atol=2e-5)
    stored = stored_tensors(tmp_path / "apart")
    assert torch.allclose(stored[HEAD], stored[EMBEDDINGS] + 0.5)
