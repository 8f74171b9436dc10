"""Second reads: query slots that a padded checkpoint has to spare, and the heads that read with them once more.

Stock code gives every KV head as many query slots as the largest group needs (``gqasearch.checkpoints.layout``). In a
slot that would be empty, a head of another group can read this group's keys and values, too: its output is then a sum
of two reads. It is as if the source had the head twice, once with all of W_o and once with none, which computes the
same.

    groups {0,2,3} {1}, second reads (0, 1) (3, 1)        q0 q2 q3 | q1 q0' q3'

Pure Python: nothing here imports torch or numpy.
"""

from __future__ import annotations

from typing import TypeAlias

from gqasearch.grouping import GroupingError, LayerGrouping

# (head of the source, group that it reads besides its own), in the order of the copies.
SecondReads: TypeAlias = tuple[tuple[int, int], ...]


def check_second_reads(layer: LayerGrouping, reads: SecondReads) -> None:
    """Raise ``GroupingError`` for a head or a group that there is not, and for a head that reads a group twice."""
    for head, group in reads:
        if not (0 <= head < layer.num_heads and 0 <= group < layer.num_groups):
            raise GroupingError(
                f"second read [{head}, {group}]: heads are 0..{layer.num_heads - 1}, groups 0..{layer.num_groups - 1}"
            )
        if layer.labels[head] == group:
            raise GroupingError(f"second read [{head}, {group}]: head {head} is in group {group}")
    twice = [list(read) for read in sorted(set(reads)) if reads.count(read) > 1]
    if twice:
        raise GroupingError(f"second read {twice[0]} is named twice")


def with_second_reads(layer: LayerGrouping, reads: SecondReads) -> LayerGrouping:
    """The partition of the heads and of the copies that read a second time: head H + i is the copy of ``reads[i]``."""
    return LayerGrouping.from_labels([*layer.labels, *(group for _, group in reads)])
