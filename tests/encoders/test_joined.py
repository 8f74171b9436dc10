"""Encoders whose heads were given room compute the same, and what is made of them loads with the code in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gqasearch.checkpoints import write_joined
from gqasearch.models import load_parent, resolve_model
from tests.checkpoints.convert import config_of, stored_tensors
from tests.checkpoints.uneven import ROUNDING, UNEVEN, write
from tests.encoders.test_ragged import difference, load_trusted
from tests.tiny_encoders import ENCODERS, masked_blocks, save_encoder, tiny_encoder


def joined(tmp_path: Path, family: str, n: int, **options: Any) -> tuple[Path, Path]:
    """The folders of an encoder, and of the same with heads of n times the size."""
    source, folder = save_encoder(tiny_encoder(family, **options), tmp_path / "source"), tmp_path / f"joined-{n}"
    write_joined(resolve_model(str(source)), n, folder)
    return source, folder


@pytest.mark.parametrize("family", [*ENCODERS, "xlm-roberta"])
def test_computes_the_same(family: str, tmp_path: Path) -> None:
    source, folder = joined(tmp_path, family, 3)
    own, wide = (load_parent(str(one)).model for one in (source, folder))
    blocks = masked_blocks(padded=True)
    with torch.no_grad():
        found, wanted = (
            model(input_ids=blocks.ids, attention_mask=blocks.mask.long()).logits[blocks.mask] for model in (wide, own)
        )
    assert float((found - wanted).abs().max()) < 2e-5 * float(wanted.std())
    assert sum(map(torch.Tensor.numel, wide.parameters())) > sum(map(torch.Tensor.numel, own.parameters()))
    again = load_parent(str(source)).model
    assert [tensor.shape for tensor in again.parameters()] == [tensor.shape for tensor in own.parameters()]


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_a_checkpoint_equals_the_wide_parent_with_tied_heads(family: str, tmp_path: Path) -> None:
    _, folder = joined(tmp_path, family, 2)
    parent, out = load_parent(str(folder)), tmp_path / "out"
    write(parent, folder, out, UNEVEN, "auto")
    assert difference(parent, load_trusted(out), UNEVEN) <= ROUNDING
    assert config_of(out)["head_dim"] == 16
    shapes = {tuple(tensor.shape) for name, tensor in stored_tensors(out).items() if "attention" in name}
    assert {(96, 48), (48, 96), (2 * 16, 48), (4 * 16, 48)} <= shapes  # W_q, W_o; W_k and W_v of two heads and of four
