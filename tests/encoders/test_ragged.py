"""Ragged checkpoints of encoders, loaded by transformers with the code in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from gqasearch.checkpoints import needs_remote_code, plan_checkpoint, require_own_code
from gqasearch.checkpoints.ragged_encoders import ENCODER_NAMES
from gqasearch.checkpoints.remote import modeling_ragged_bert
from gqasearch.errors import UserError
from gqasearch.evaluation import computed_kv_bytes_per_token
from gqasearch.grouping import Grouping
from gqasearch.models import FAMILIES, Parent, load_model, load_parent
from tests.checkpoints.convert import PADDED, SYMMETRIC, config_of, reference, stored_tensors
from tests.checkpoints.equality import note
from tests.checkpoints.uneven import ROUNDING, UNEVEN, write
from tests.matrix import sampled, thinned
from tests.tiny_encoders import ENCODERS, masked_blocks, save_encoder, tiny_encoder
from tests.tiny_models import edit_config

FILE = "modeling_ragged_bert.py"


def saved(tmp_path: Path, family: str) -> tuple[Parent, Path]:
    folder = save_encoder(tiny_encoder(family), tmp_path / "source")
    return load_parent(str(folder)), folder


def load_trusted(folder: Path, auto: Any = AutoModelForMaskedLM, **options: Any) -> PreTrainedModel:
    """As any user would. Refuses missing, unexpected or reshaped tensors."""
    model: PreTrainedModel
    model, info = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model.eval()


def difference(parent: Parent, written: PreTrainedModel, grouping: Grouping, *, left: bool = False) -> float:
    """Largest difference of logits from the parent with tied heads, of a padded batch, padding left out."""
    blocks = masked_blocks(padded=True)
    ids, mask = (blocks.ids.flip(1), blocks.mask.flip(1)) if left else (blocks.ids, blocks.mask)
    with torch.no_grad(), reference(parent, grouping) as tied:
        expected = tied(input_ids=ids, attention_mask=mask.long()).logits[mask]
        got = written(input_ids=ids, attention_mask=mask.long()).logits[mask]
    assert float(expected.std()) > 0.5
    found = float((got - expected).abs().max())
    note(parent, written, found)
    return found


@pytest.mark.parametrize("family", sampled([*ENCODERS, "xlm-roberta"], ["bert", "distilbert", "xlm-roberta"]))
def test_written_checkpoint_equals_parent_with_tied_heads(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    layout = write(parent, folder, tmp_path / "out", UNEVEN, "auto")
    assert (layout.name, layout.kv_heads_per_layer) == ("ragged", (2, 4))
    written = load_trusted(tmp_path / "out")
    assert difference(parent, written, UNEVEN) <= ROUNDING
    assert difference(parent, written, UNEVEN, left=True) <= ROUNDING
    assert computed_kv_bytes_per_token(written, parent.family, 2) == UNEVEN.kv_bytes_per_token(8, 4)


@pytest.mark.parametrize(
    ("grouping", "implementation"),
    thinned([SYMMETRIC, PADDED, Grouping.from_labels([[0] * 6, list(range(6))])], ["eager", "sdpa"]),
)
def test_other_groupings_and_attention_implementations(grouping: Grouping, implementation: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "bert")
    write(parent, folder, tmp_path / "out", grouping, "auto")
    written = load_trusted(tmp_path / "out", attn_implementation=implementation)
    assert difference(parent, written, grouping) <= ROUNDING
    if implementation == "eager":
        maps = written(torch.full((1, 5), 7), output_attentions=True).attentions
        assert [tuple(layer.shape) for layer in maps] == [(1, 6, 5, 5)] * 2


@pytest.mark.parametrize("family", sampled(ENCODERS, ["roberta", "distilbert"]))
def test_hidden_states_alone(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    model = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    blocks = masked_blocks(blocks=2)
    with torch.no_grad(), reference(parent, UNEVEN) as tied:
        expected = tied.base_model(input_ids=blocks.ids).last_hidden_state
        got = model(input_ids=blocks.ids).last_hidden_state
    torch.testing.assert_close(got, expected, atol=ROUNDING, rtol=0)


def test_real_heads_only_and_what_lies_beside(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "roberta")
    assert not needs_remote_code(folder)
    write(parent, folder, tmp_path / "out", UNEVEN, "auto")
    before, after = stored_tensors(folder), stored_tensors(tmp_path / "out")
    changed = {name: tuple(tensor.shape) for name, tensor in after.items() if tensor.shape != before[name].shape}
    prefix = "roberta.encoder.layer.{}.attention.self.{}.{}"
    assert changed == {
        prefix.format(layer, role, kind): (heads * 8, 48)[: 2 if kind == "weight" else 1]
        for layer, heads in ((0, 2), (1, 4))
        for role in ("key", "value")
        for kind in ("weight", "bias")
    }
    config = config_of(tmp_path / "out")
    assert config["architectures"] == ["RaggedRobertaForMaskedLM"]
    assert config["kv_group_sizes"] == [[4, 2], [3, 1, 1, 1]]  # larger groups first
    assert not {"head_dim", "num_key_value_heads", "rope_theta", "rope_parameters"} & config.keys()
    assert (tmp_path / "out" / FILE).read_bytes() == Path(modeling_ragged_bert.__file__).read_bytes()
    assert needs_remote_code(tmp_path / "out")
    require_own_code(tmp_path / "out")
    assert load_model(tmp_path / "out", torch.float32, "cpu", trust_remote_code=True).dtype == torch.float32
    assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token == "<mask>"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card and "model = AutoModelForMaskedLM.from_pretrained(" in card
    assert "the keys and values that it computes take" in card and "KV cache" not in card


def test_saved_again_it_is_the_same_model_and_it_trains(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "distilbert")
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    model = load_trusted(tmp_path / "out")
    model.save_pretrained(tmp_path / "again")
    first, second = stored_tensors(tmp_path / "out"), stored_tensors(tmp_path / "again")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert difference(parent, load_trusted(tmp_path / "again"), UNEVEN) <= ROUNDING
    ids = torch.arange(5, 25).view(1, 20)
    model.train()(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if "embed" not in n)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_group_sizes": None}, "kv_group_sizes must list one entry for each of the 2 layers, got None"),
        ({"kv_group_sizes": [[4, 2], [3, 2, 2]]}, r"kv_group_sizes\[1\] must add up to 6 attention heads"),
        ({"kv_group_sizes": [[4, 2], [3, 3]]}, r"num_key_value_heads_per_layer\[1\] is 4, kv_group_sizes has 2"),
        ({"is_decoder": True}, "is_decoder must be false"),
    ],
)
def test_bad_configs_are_refused_when_read(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "bert")
    write(parent, folder, tmp_path / "out", UNEVEN, "auto")
    edit_config(tmp_path / "out", **changes)
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)


def test_other_layouts_and_engines_are_refused(tmp_path: Path) -> None:
    parent, _ = saved(tmp_path, "bert")
    for options, message in (
        ({"layout": "stock"}, "layout stock: BertForMaskedLM has as many key and value heads as query heads"),
        ({"layout": "deci"}, "BertForMaskedLM is no Llama or Mistral"),
        ({"target": "vllm"}, "target vllm loads no converted checkpoint of this model"),
    ):
        with pytest.raises(UserError, match=message):
            plan_checkpoint(parent.family, parent.config, SYMMETRIC, **options)  # type: ignore[arg-type]


def test_every_encoder_has_its_classes() -> None:
    architectures = {name for family in FAMILIES if family.objective == "masked" for name in family.architectures}
    assert architectures == {name for name in ENCODER_NAMES if not name.endswith("Model")}
    for name in map(ENCODER_NAMES.__getitem__, architectures):
        for kind in ("Config", "Model", "ForMaskedLM"):
            assert hasattr(modeling_ragged_bert, f"Ragged{name}{kind}")
