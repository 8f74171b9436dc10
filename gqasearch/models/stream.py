"""The residual stream around an attention block whose output is not simply added to it.

Most models add attention's output a to the stream h. Some multiply it first by a gain g, a constant (Granite) or that
of a norm (Gemma 2 and 3): r = h + g a. What is measured and fitted in gqasearch is a, so r is taken in its units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.models.parent import Parent

# Where the gain is far below its mean nothing of a reaches the stream, and nothing can be made good there.
RELATIVE_FLOOR = 1e-3


def stream_after(parent: Parent, index: int, stream: Tensor, attended: Tensor) -> Tensor:
    """r (..., D) from ``stream`` h and ``attended`` a (..., D), over the root mean square of every token's gain.

    So that an error of a, relative to it, is that of the stream.
    """
    gain = _gain(parent, index, attended)
    if gain is None:
        return stream + attended
    return (stream + gain * attended) / gain.square().mean(-1, keepdim=True).sqrt()


def wanted_of_attention(parent: Parent, index: int, behind: Tensor, attended: Tensor) -> Tensor:
    """What attention has to give, (..., D), for the parent's stream after it, in a stream that is ``behind`` below.

    ``attended``: what the parent's attention gives. Under a norm this takes the parent's own gain for every token.
    """
    gain = _gain(parent, index, attended)
    if gain is None:
        return behind + attended
    floor = RELATIVE_FLOOR * gain.square().mean(-1, keepdim=True)
    return attended + behind * gain / (gain.square() + floor)


def _gain(parent: Parent, index: int, attended: Tensor) -> Tensor | None:
    def read(name: str) -> Tensor:
        return parent.parameter(name)

    with torch.no_grad():
        return parent.family.stream_gain(read, index, parent.config, attended)
