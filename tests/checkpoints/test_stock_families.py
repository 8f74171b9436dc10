"""The stock layout of the families whose code is much like another's: fewer cases than in ``test_stock``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gqasearch.errors import UserError
from gqasearch.models import family_of, load_parent
from tests.checkpoints.convert import PADDED, SYMMETRIC, config_of, convert, load, reference, some_ids
from tests.checkpoints.test_stock import assert_same, saved
from tests.matrix import sampled
from tests.tiny_models import MORE_GROUPED_NAMES, edit_config, save_checkpoint, tiny_model

# Hidden sizes that 6 heads and 9 slots divide, where transformers asks for it; what it refuses is tested below.
WIDTHS: dict[str, dict[str, Any]] = {"gemma2": {"hidden": 72}, "gemma3_text": {"hidden": 72}}
NEVER_PADDED = ("stablelm", "stablelm_normed", "phi_normed")
PADDED_NAMES = [name for name in MORE_GROUPED_NAMES if name not in NEVER_PADDED]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 2.0],
    "long_factor": [2.0, 4.0],
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize("family", sampled(MORE_GROUPED_NAMES, MORE_GROUPED_NAMES[::2]))
def test_symmetric_checkpoint_of_a_gqa_source(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, heads=12, kv_heads=6)
    assert convert(parent, folder, tmp_path / "out", SYMMETRIC).name == "stock-symmetric"
    assert config_of(tmp_path / "out")["architectures"] == parent.config["architectures"]
    assert_same(parent, tmp_path / "out", SYMMETRIC)


@pytest.mark.parametrize("family", sampled(PADDED_NAMES, PADDED_NAMES[1::2]))
def test_padded_checkpoint_of_an_mha_source(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **WIDTHS.get(family, {}))
    assert convert(parent, folder, tmp_path / "out", PADDED).name == "stock-padded"
    assert config_of(tmp_path / "out")["architectures"] == parent.config["architectures"]
    assert_same(parent, tmp_path / "out", PADDED)


@pytest.mark.parametrize("family", WIDTHS)
def test_padding_goes_on_to_the_next_number_that_the_architecture_takes(family: str, tmp_path: Path) -> None:
    """Three groups of up to 3 heads need 9 slots, and of the numbers that divide 48 the next is 12."""
    parent, folder = saved(tmp_path, family)
    layout = convert(parent, folder, tmp_path / "out", PADDED)
    assert (layout.name, layout.query_heads) == ("stock-padded", 12)
    assert "room for 4, the next number that this architecture takes, 12 query heads in place of 6" in layout.reason
    assert_same(parent, tmp_path / "out", PADDED)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("stablelm", {}, "its head size is always hidden_size / num_attention_heads"),
        ("phi_normed", {}, "a Phi with qk_layernorm cannot be query-padded"),
        ("gemma2", {"hidden": 66}, "hidden size 66 cannot be query-padded to 9 query heads"),
        ("gemma3_text", {"hidden": 66}, "hidden size 66 cannot be query-padded to 9 query heads"),
        ("phi3", {"rope_parameters": LONGROPE}, "longrope cannot be query-padded"),
    ],
)
def test_padding_that_the_architecture_does_not_take_is_refused(
    family: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    parent, folder = saved(tmp_path, family, **options)
    with pytest.raises(UserError, match=message):
        convert(parent, folder, tmp_path / "out", PADDED, layout="stock")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gemma", {"attention_bias": True}),
        ("starcoder2", {"use_bias": False}),
        ("olmo", {"attention_bias": True}),
        ("stablelm", {"use_qkv_bias": False, "use_parallel_residual": True}),
        ("phi3", {"rope_parameters": LONGROPE}),
    ],
)
def test_other_variants(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **options)
    convert(parent, folder, tmp_path / "out", SYMMETRIC)
    assert_same(parent, tmp_path / "out", SYMMETRIC)


GEMMA3_OLD = {
    "rope_theta": 5000.0,
    "rope_local_base_freq": 50.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
}
GEMMA3_NEW = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}


@pytest.mark.parametrize(
    ("family", "old", "wanted"),
    [
        ("gemma3_text", GEMMA3_OLD, {"rope_parameters": GEMMA3_NEW, **GEMMA3_OLD}),
        ("gemma3_text", {}, {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None}),
        ("smollm3", {}, {"rope_theta": 2e6, "rope_scaling": None}),
        ("cohere", {}, {"rope_theta": 5e5, "rope_scaling": None}),
        ("phi", {"partial_rotary_factor": 0.25}, {"rope_theta": 1e4, "partial_rotary_factor": 0.25}),
        (
            "phi3",
            {
                "partial_rotary_factor": 0.5,
                "original_max_position_embeddings": 64,
                "rope_scaling": {"type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [2.0, 4.0]},
            },
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [2.0, 4.0]}},
        ),
    ],
)
def test_rope_as_older_versions_write_it(
    family: str, old: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    """Loaded with the same frequencies, and written for both."""
    source = save_checkpoint(tiny_model(family), tmp_path / "source")
    edit_config(source, ("rope_parameters",), **old)
    parent = load_parent(str(source))
    convert(parent, source, tmp_path / "out", SYMMETRIC)
    config = config_of(tmp_path / "out")
    assert {name: config[name] for name in wanted} == wanted
    fraction = old.get("partial_rotary_factor")
    assert fraction is None or config["rope_parameters"]["partial_rotary_factor"] == fraction  # type: ignore[index]
    assert family_of(config).geometry(config).rotary_dim == parent.geometry.rotary_dim
    ids = some_ids()
    with torch.no_grad(), reference(parent, SYMMETRIC) as tied:
        assert float((load(tmp_path / "out")(ids).logits - tied(ids).logits).abs().max()) <= 5e-5
