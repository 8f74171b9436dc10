"""Certificates of a found grouping: how far every layer can be from the best one of its number of groups."""

from __future__ import annotations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.errors import UserError
from gqasearch.fitness import PreparedFitness, PreparedGroupFitness
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import GroupingDocument
from gqasearch.searching import GroupErrors, Problem
from gqasearch.searching.exact import Prover, check_provable
from gqasearch.steps.workspace import Workspace


def check_certifiable(work: Workspace, problem: Problem) -> None:
    """Refuse ``--certify`` before a long search where nothing can be proven."""
    if not work.config.certify:
        return
    if problem.layer_errors is None:
        raise UserError(
            f"--certify needs one fitness that is a sum over groups, got {', '.join(work.config.objectives)}"
        )
    for errors in problem.layer_errors:
        check_provable(errors)


def certify(work: Workspace, grouping: Grouping, first: PreparedFitness, budget: Budget) -> list[float | None]:
    """Lower bounds, (L,), on the error of every layer with its number of groups and the search's size bounds.

    None where none was found in ``certify_seconds``.
    """
    if not isinstance(first, PreparedGroupFitness):
        raise TypeError("only sums over groups have certificates")
    work.progress.stage("certify", total=len(grouping))
    bounds: list[float | None] = []
    for index, layer in enumerate(grouping):
        errors: GroupErrors = first.layer_errors(index, grouping.num_heads)
        prover = Prover(errors, budget, work.config.certify_seconds)
        rng = np.random.default_rng([work.config.seed, index])
        bound = prover.certificate(layer.num_groups, rng, layer).lower_bound
        bounds.append(bound if np.isfinite(bound) else None)
        work.progress.update(index + 1)
    return bounds


def certificate_words(document: GroupingDocument) -> str | None:
    """What is proven of the layers, in words; None when nothing was to be proven."""
    layers = document.layers
    if all(layer.proven_optimal is None for layer in layers):
        return None
    proven = sum(layer.proven_optimal is True for layer in layers)
    words = f"{proven} of {len(layers)} layers proven to have the lowest error of any grouping of their count"
    open_ones = [layer for layer in layers if not layer.proven_optimal]
    gaps = [1 - la.lower_bound / la.error for la in open_ones if la.error and la.lower_bound is not None]
    words += f"; {len(gaps)} more within {100 * max(gaps):.2g}% of it" if gaps else ""
    unknown = len(open_ones) - len(gaps)
    return words + (f"; nothing proven of {unknown}" if unknown else "")
