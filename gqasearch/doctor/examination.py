"""All checks of one checkpoint."""

from __future__ import annotations

from gqasearch.doctor import config_files, heads, layouts
from gqasearch.doctor._base import Check, Finding, Patient

CHECKS: tuple[Check, ...] = (
    layouts.layout,
    layouts.joined_heads,
    layouts.remote_code,
    config_files.weights,
    heads.head_size,
    heads.shared_layers,
    heads.cache_size,
    heads.cache_formats,
    config_files.tokenizer,
    config_files.rope,
    config_files.same_in_all_words,
    config_files.taken_for_granted,
    config_files.dtype,
    config_files.export,
)


def examine(patient: Patient) -> list[Finding]:
    """What every check found, in the order in which a loading engine would meet it."""
    return [finding for check in CHECKS for finding in check(patient)]
