"""How an encoder's last hidden states become one embedding of a text.

As the folder's ``modules.json`` and the pooling module that it names say, in the format of sentence-transformers
(arXiv 1908.10084, https://sbert.net); the mean over tokens where there is none. Modules after it (a dense layer, a
norm) are not computed: the length of an embedding does not matter to a cosine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gqasearch.errors import UserError

# Hidden states (B, T, D) and mask (B, T) float, padding at the end -> (B, D).
Mode = Callable[[Tensor, Tensor], Tensor]


def _cls(hidden: Tensor, _mask: Tensor) -> Tensor:
    return hidden[:, 0]


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return torch.einsum("btd,bt->bd", hidden, mask) / mask.sum(1, keepdim=True)


def _root_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _mean(hidden, mask) * mask.sum(1, keepdim=True).sqrt()


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _mean(hidden, mask * torch.arange(1, hidden.shape[1] + 1, device=mask.device))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    places = mask.sum(1).long() - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), places]


MODES: dict[str, Mode] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _root_mean,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
# In the pooling module's config.json, older and newer files -> one of MODES, side by side in this order.
FIELDS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Pooling:
    """Names of ``MODES``, whose results stand side by side in an embedding."""

    modes: tuple[str, ...] = ("mean",)

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (B, D times the number of modes) of length 1, float32 or wider, from (B, T, D) and (B, T) bool."""
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        counted = mask.to(hidden)  # device and dtype
        pooled = torch.cat([MODES[mode](hidden, counted) for mode in self.modes], dim=-1)
        return torch.nn.functional.normalize(pooled, dim=-1)

    def __str__(self) -> str:
        return " and ".join(self.modes)


def pooling_of(folder: Path | None) -> Pooling:
    """What the checkpoint in ``folder`` says; raises ``UserError`` for what is not understood."""
    modules = None if folder is None else _read(folder / "modules.json")
    if folder is None or modules is None:
        return Pooling()
    listed = modules if isinstance(modules, list) else []
    paths = [one.get("path") for one in listed if isinstance(one, dict) and _is_pooling(str(one.get("type")))]
    if not paths:
        return Pooling()
    path = folder / str(paths[0]) / "config.json"
    said = _read(path)
    if not isinstance(said, dict):
        raise UserError(f"{folder / 'modules.json'} names a pooling module, and {path} is no JSON object")
    return Pooling(_modes(said, path))


def _modes(said: dict[str, Any], path: Path) -> tuple[str, ...]:
    named = said.get("pooling_mode")  # newer files: a name, or several
    modes = [named] if isinstance(named, str) else list(named or ())
    modes = modes or [mode for field, mode in FIELDS.items() if said.get(field)]
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise UserError(f"{path}: pooling must be of {', '.join(MODES)}, got {', '.join(map(str, unknown)) or 'none'}")
    return tuple(modes)


def _is_pooling(kind: str) -> bool:
    return kind.startswith("sentence_transformers.") and kind.endswith(".Pooling")


def _read(path: Path) -> Any:
    """None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
