"""Whether a grouping belongs to a model."""

from __future__ import annotations

from gqasearch.budget import Geometry
from gqasearch.errors import UserError
from gqasearch.grouping_document import GroupingDocument


def check_fits(document: GroupingDocument, geometry: Geometry, fingerprint: str | None, *, joined: int = 1) -> None:
    """Refuse a grouping that belongs to another model.

    ``joined``: how many times the size of the model's the heads in ``geometry`` have. ``fingerprint``: content hash of
    the model's weights, or None to allow other weights of the same shape. Raises ``UserError`` that names both values
    of everything that differs, of fingerprints their first digits.
    """
    model = document.model
    counts = [
        ("num_layers", model.num_layers, geometry.num_layers),
        ("num_attention_heads", model.num_attention_heads, geometry.num_attention_heads),
        ("num_key_value_heads", model.num_key_value_heads, geometry.num_kv_heads),
        ("head_dim", joined * model.head_dim, geometry.head_dim),
    ]
    differ = [f"{name} is {a} in the grouping, {b} in the model" for name, a, b in counts if a != b]
    if not differ and fingerprint is not None and model.fingerprint and model.fingerprint != fingerprint:
        two = (f"{_short(model.fingerprint)} in the grouping", f"{_short(fingerprint)} in the model")
        differ = [f"the weights differ: fingerprint {', '.join(two)}"]
    if differ:
        instead = "give the model that it was searched for with --model, or search this one"
        raise UserError(f"this grouping belongs to another model ({model.id}): {'; '.join(differ)}; {instead}")


def _short(fingerprint: str) -> str:
    return fingerprint.removeprefix("sha256:")[:12]
