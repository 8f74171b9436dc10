"""In how many bytes a checkpoint stores a number."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

from gqasearch.models.tensors import CheckpointTensors


def value_bytes(directory: Path) -> int:
    """Bytes of one number in the dtype that most of the checkpoint is stored in, which its KV cache has too.

    Norms and the like may be wider. What a run computes in, on this machine, does not matter.
    """
    sizes: Counter[int] = Counter()
    for header in CheckpointTensors(directory).headers.values():
        for tensor in header.tensors.values():
            numbers = prod(tensor.shape)
            if numbers:
                sizes[tensor.nbytes // numbers] += numbers
    return sizes.most_common(1)[0][0]
