"""A healed checkpoint that is not the model that was trained gets no name; rounding to its dtype is no fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gqasearch.checkpoints import healed, needs_remote_code, write_healed
from gqasearch.errors import UserError
from gqasearch.models.loading import load_model
from tests.checkpoints.convert import stored_tensors
from tests.checkpoints.uneven import UNEVEN, saved, write


def _trained(start: Path) -> nn.Module:
    """In float32, every weight moved by more than float32 keeps and less than bfloat16 does."""
    model = load_model(start, torch.float32, "cpu", trust_remote_code=needs_remote_code(start))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0011)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trained_model_is_what_is_loaded_back(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, source = saved(tmp_path, "llama", dtype=dtype)
    write(parent, source, tmp_path / "start", UNEVEN, "ragged")
    model = _trained(tmp_path / "start")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = write_healed(tmp_path / "start", tmp_path / "healed", model, "Healed.")
    assert found.difference < 1e-4 and found.tokens == 128
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    written = stored_tensors(tmp_path / "healed")
    assert torch.equal(written["lm_head.weight"], before["lm_head.weight"].to(dtype))
    cast = healed.cast

    def wrong(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
        return cast(tensor.flip(0) if name.endswith("o_proj.weight") else tensor, dtype, name)

    monkeypatch.setattr(healed, "cast", wrong)
    with pytest.raises(UserError, match="does not compute"):
        write_healed(tmp_path / "start", tmp_path / "again", model, "Healed.")
    assert not (tmp_path / "again").exists()
