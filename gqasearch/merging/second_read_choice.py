"""Which heads read a second time, from errors of groups alone.

A head that makes its group's error large is served badly there, and one that would raise another group's error little
if it joined it is served well by that group's keys and values.
"""

from __future__ import annotations

from gqasearch.grouping import LayerGrouping
from gqasearch.merging._base import LayerMerge
from gqasearch.second_reads import SecondReads


def choose_second_reads(merge: LayerMerge, layer: LayerGrouping, room: int) -> SecondReads:
    """Second reads that fill every group of ``layer`` up to ``room`` heads.

    Round by round, the heads that their groups suffer from most choose among the groups with slots to spare the one
    that would suffer least. Nobody reads a group twice, so ``room`` is at most the number of heads.
    """
    groups, labels = layer.groups, layer.labels
    errors = merge.group_errors(groups)
    without = merge.group_errors(
        [tuple(other for other in groups[labels[head]] if other != head) for head in range(layer.num_heads)]
    )
    suffered = [errors[labels[head]] - without[head] for head in range(layer.num_heads)]
    order = sorted(range(layer.num_heads), key=lambda head: (-suffered[head], head))
    spare = {group: room - size for group, size in enumerate(layer.sizes) if size < room}
    pairs = [(head, group) for group in spare for head in order if labels[head] != group]
    joined = merge.group_errors([tuple(sorted((*groups[group], head))) for head, group in pairs])
    raised = {pair: error - errors[pair[1]] for pair, error in zip(pairs, joined, strict=True)}
    chosen: list[tuple[int, int]] = []
    while spare:
        before = len(chosen)
        for head in order:
            free = [group for group in spare if labels[head] != group and (head, group) not in chosen]
            if free:
                group = min(free, key=lambda one: (raised[head, one], one))
                chosen.append((head, group))
                spare = {one: left - (one == group) for one, left in spare.items() if left - (one == group)}
        if len(chosen) == before:
            raise ValueError(f"{layer.num_heads} heads cannot fill groups of {room}")
    return tuple(sorted(chosen, key=lambda read: read[::-1]))
