"""Outputs: W_o of every grouped layer, refitted to the parent's residual stream by ridge regression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from gqasearch.models import LayerWeights
from gqasearch.refining._base import LayerwiseRefinement, Refinement
from gqasearch.refining.layer_site import LayerSite
from gqasearch.refining.ridge import fit_outputs


@dataclass(frozen=True)
class Outputs(LayerwiseRefinement):
    """``ridge``: how strongly W_o is held to what the merge made of it, relative to the mean energy of its input.

    ``validate``: where the text is short for the layer (``LayerSite.is_scarce``), stronger ones are compared with it on
    calls that a fit does not see, and the layer is left alone where none does good.
    """

    name: ClassVar[str] = "outputs"
    reference: ClassVar[str] = "https://doi.org/10.1080/00401706.1970.10488634"
    summary: ClassVar[str] = "W_o of every grouped layer by ridge regression to the parent's residual stream"

    ridge: float = 1e-3
    validate: bool = True

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ValueError(f"ridge must be above 0, got {self.ridge}")

    @classmethod
    def quick(cls, refinement: Refinement) -> Outputs:
        """What stands in for a refinement while candidates are compared: validated where that is."""
        return cls(validate=refinement.parameters().get("validate", True))

    @property
    def layer_steps(self) -> int:
        return 1

    def refine_layer(self, site: LayerSite, merged: LayerWeights, step: Callable[[], None]) -> LayerWeights:
        weights, _ = fit_outputs(site, merged, self.ridge, validate=self.validate)
        step()
        return weights
