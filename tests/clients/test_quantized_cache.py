"""transformers' QuantizedCache with its two backends, and what ``gqasearch.rounding`` says that it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gqasearch.evaluation import ParentLayers, RoundedLayers
from gqasearch.models import Parent
from gqasearch.rounding import KVFormat, make_format
from tests.clients.client import Client
from tests.tiny_models import VOCAB_SIZE, save_checkpoint, tiny_model

QUANTIZED = Client("quantized_cache", "transformers' QuantizedCache")
RESIDUAL, TOKENS = 8, 29
SAME = 5e-5
GROUPS = {0: 32, 1: 32, -1: RESIDUAL}  # numbers of one head, one and a half heads; tokens of a channel
CASES = [*(("quanto", bits, axis) for bits in (2, 4) for axis in (0, -1)), *(("hqq", bits, 1) for bits in (2, 4, 8))]


def request(backend: str, bits: int, axis: int, **more: Any) -> dict[str, Any]:
    return {"backend": backend, "bits": bits, "axis": axis, "group": GROUPS[axis], "residual": RESIDUAL, **more}


def format_of(backend: str, bits: int, axis: int) -> KVFormat:
    fields: dict[str, Any] = {"group": GROUPS[axis], "residual": RESIDUAL}
    if backend == "quanto":
        fields["axis"] = axis
    name = f"{backend}{bits}"
    return KVFormat(name, make_format(name, "k", fields), make_format(name, "v", fields))


def test_what_is_read_back(tmp_path: Path) -> None:
    """Of heads of 48 numbers: groups along the head do not end with it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 16, 48, generator=generator) * torch.randn(16, 1, generator=generator).exp()
    answer = QUANTIZED.run("run.py", [request(*case, x=x.tolist()) for case in CASES], tmp_path)
    for case, result in zip(CASES, answer.result, strict=True):
        own, theirs = format_of(*case).k.round(x), torch.tensor(result["found"])
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, case=case: f"{case}: {text}")


def test_decoding(tmp_path: Path) -> None:
    """Several times as many tokens as are rounded together: all that is old is rounded again, and stays as it was."""
    model = tiny_model("llama", head_dim=32)
    save_checkpoint(model, tmp_path / "model")
    ids = torch.randint(4, VOCAB_SIZE, (TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
    asked = [request(*case, model=str(tmp_path / "model"), ids=ids) for case in CASES]
    answer = QUANTIZED.run("run.py", asked, tmp_path)
    stack, tokens = ParentLayers(Parent.from_model(model)), torch.tensor([ids])
    mask = torch.ones_like(tokens, dtype=torch.bool)
    plain = stack(tokens, mask)[0]
    for case, result in zip(CASES, answer.result, strict=True):
        own, theirs = RoundedLayers(stack, format_of(*case))(tokens, mask)[0], torch.tensor(result["found"])
        off, moved = (own - theirs).abs().amax(-1), (plain - theirs).abs().amax(-1)
        assert float(moved[:RESIDUAL].max()) < SAME < 100 * SAME < float(moved[RESIDUAL:].min())
        # What HQQ rounds again gets other zero points: they are fitted anew.
        again = 2 * RESIDUAL if case[0] == "hqq" else TOKENS
        assert float(off[:again].max()) < SAME
        assert float(off.max()) < 0.1 * float(moved.max())
