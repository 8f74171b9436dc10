"""From drawn values to the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gqasearch.config import PARAMETERISED, RunConfig, build_config
from gqasearch.errors import UserError, unknown_name
from gqasearch.fitness import make_fitness
from gqasearch.merging import make_merge
from gqasearch.refining import make_refinement
from gqasearch.searching import make_method
from gqasearch.steps.objects import with_refinement

FITNESS = "fitness"  # short for ``objectives`` with one name, as on the command line

# Settings that no trial may differ in, and why.
_MEASURE = "it changes what is measured, and trials could not be compared"
_NO_USE = "it does not change what is searched; set it in `settings`"
FIXED: dict[str, str] = {
    **dict.fromkeys(
        ("model", "revision", "dtype", "device", "calibration_text", "block_length", "evaluation_text"), _MEASURE
    ),
    **dict.fromkeys(("evaluation_part", "evaluation_tokens", "tensor_parallel", "target"), _MEASURE),
    **dict.fromkeys(("baseline", "materialize", "layout", "certify", "certify_seconds", "batch_blocks"), _NO_USE),
    "objectives": "it is a list; sweep over `fitness`",
}

# What has to be the same in all trials for their fitness values to be comparable.
_DECIDES_FITNESS = (
    "fitness",
    "merge",
    "refine",
    "kv_",
    "uneven",
    "equal_sizes",
    "max_group",
    "search_tok",
    "calibration_",
)


def check_name(name: str) -> None:
    """Refuse what is neither a setting nor ``SECTION.PARAMETER``; the parameter itself is checked with its method."""
    section, dot, parameter = name.partition(".")
    if dot:
        if section not in PARAMETERISED or not parameter:
            raise unknown_name(f"section in {name!r}: the part", section, PARAMETERISED)
    elif name not in RunConfig.model_fields and name != FITNESS:
        raise unknown_name("setting", name, [*RunConfig.model_fields, FITNESS])


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"method.population": 8}`` as ``{"method_parameters": {"population": 8}}``, and so on."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, parameter = name.partition(".")
        if dot:
            key = f"{section}_parameters"
            found[key] = {**(found.get(key) or {}), parameter: value}
        elif name == FITNESS:
            found["objectives"] = [value]
        else:
            found[name] = value
    return found


def checked_config(values: Mapping[str, Any]) -> RunConfig:
    """A configuration all of whose names and parameters exist. Loads no model."""
    config = build_config(nested(values))
    make_merge(config.merge, config.merge_parameters)
    make_method(config.method, config.method_parameters)
    make_refinement(with_refinement(config).refine or "none", config.refine_parameters)
    for name in config.objectives:
        if name != "kv-ratio":
            make_fitness(name, config.fitness_parameters)
    return config


def refuse_incomparable_fitness(names: Mapping[str, Any], purpose: str) -> None:
    """``purpose`` compares fitness values between trials: no parameter in ``names`` may change what they mean."""
    changing = [name for name in names if name.startswith(_DECIDES_FITNESS)]
    if changing:
        raise UserError(
            f"{purpose} compares the fitness of trials, and {', '.join(changing)} would change its meaning; "
            "fix that in `settings`"
        )
