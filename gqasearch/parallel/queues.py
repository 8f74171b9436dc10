"""Who evaluates what next: a queue per worker, and work stealing, so that nobody waits while there is work.

Candidates that share their lowest layers share hidden states (``PrefixLosses``), so they are dealt in order of their
layers, in runs; and one that is measured again, on more text, goes back to the worker that still has what it
computed. Values do not depend on any of this.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

# A worker that dies takes the work of one chunk with it.
LARGEST_CHUNK = 16


class Queues:
    """Places of items, in one queue per worker, and those that a dead worker left, which are given one by one."""

    def __init__(self, places: Sequence[int], homes: Mapping[int, int], workers: Sequence[int]) -> None:
        """``places``: in the order to deal them; ``homes``: place -> worker that knows it already."""
        dealt: dict[int, list[int]] = {worker: [] for worker in workers}
        strangers = [place for place in places if homes.get(place) not in dealt]
        for place in places:
            if (home := homes.get(place)) in dealt:
                dealt[home].append(place)
        share, rank = -(-len(places) // max(1, len(workers))), {place: index for index, place in enumerate(places)}
        for own in dealt.values():
            room = max(0, share - len(own))
            own.extend(strangers[:room])
            own.sort(key=rank.__getitem__)
            del strangers[:room]
        self._queues = {worker: deque(own) for worker, own in dealt.items()}
        self._alone: deque[int] = deque()

    def take(self, worker: int) -> list[int]:
        """The next places for this worker: half of what is left in its queue or in the longest; [] for none."""
        if self._alone:
            return [self._alone.popleft()]
        own = self._queues.get(worker)
        if own:
            return [own.popleft() for _ in range(_chunk(own))]
        longest = max(self._queues.values(), key=len, default=None)
        if not longest:
            return []
        return [longest.pop() for _ in range(_chunk(longest))][::-1]

    def put_back(self, places: Sequence[int]) -> None:
        """Places that were not answered, each to be given alone."""
        self._alone.extend(places)


def _chunk(queue: deque[int]) -> int:
    return min(LARGEST_CHUNK, -(-len(queue) // 2))
