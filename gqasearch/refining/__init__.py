"""Refinements: what is done to merged layers so that the whole model comes closer to its parent."""

from typing import Any

from gqasearch.refining._base import LayerwiseRefinement, Refinement
from gqasearch.refining.alone import LayersAlone
from gqasearch.refining.descent import Descent
from gqasearch.refining.grouped_parent import GroupedParent
from gqasearch.refining.joint import Joint
from gqasearch.refining.layer_site import AttentionCall, LayerSite
from gqasearch.refining.none import NoRefinement
from gqasearch.refining.outputs import Outputs
from gqasearch.refining.streams import Streams
from gqasearch.registry import Registry

__all__ = [
    "REFINEMENTS",
    "REFINEMENT_REGISTRY",
    "AttentionCall",
    "Descent",
    "GroupedParent",
    "Joint",
    "LayerSite",
    "LayersAlone",
    "LayerwiseRefinement",
    "NoRefinement",
    "Outputs",
    "Refinement",
    "Streams",
    "make_refinement",
]

REFINEMENTS: dict[str, type[Refinement]] = {kind.name: kind for kind in (NoRefinement, Outputs, Descent, Joint)}


REFINEMENT_REGISTRY: Registry[Refinement] = Registry(
    "refinement", "gqasearch.refinements", Refinement, ("name", "reference", "summary"), REFINEMENTS
)


def make_refinement(name: str, parameters: dict[str, Any] | None = None) -> Refinement:
    """The refinement of this name; an unknown name or parameter is a ``UserError`` with the nearest valid one."""
    return REFINEMENT_REGISTRY.make(name, parameters)
