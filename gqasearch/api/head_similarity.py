"""How alike the heads of a parent are."""

from __future__ import annotations

import numpy as np

from gqasearch.api.parent_with_text import ParentWithText
from gqasearch.api.python_words import python_words
from gqasearch.fitness import to_numpy
from gqasearch.reporting import Similarity


@python_words()
def similarity(parent: ParentWithText) -> Similarity:
    """Cosines of the heads' keys and values at the same tokens of the calibration text; ``.figure()`` draws them.

    Heads that could share well need not be alike here: a head's keys and values may be turned without a change in what
    the model computes.
    """
    work = parent.workspace({})
    layers = [work.statistics.layer(index) for index in range(work.source.geometry.num_layers)]
    return Similarity(
        np.stack([to_numpy(layer.key_cosine) for layer in layers]),
        np.stack([to_numpy(layer.value_cosine) for layer in layers]),
    )
