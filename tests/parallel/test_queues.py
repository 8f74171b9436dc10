"""Every candidate is given to one worker, whoever asks and whoever dies."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gqasearch.parallel.queues import LARGEST_CHUNK, Queues


@given(st.integers(1, 120), st.integers(1, 7), st.randoms(use_true_random=False))
def test_every_place_is_taken_once_and_lost_ones_come_back_alone(count: int, workers: int, rng: random.Random) -> None:
    homes = {place: rng.randrange(workers + 2) for place in range(0, count, 3)}
    queues, taken, lost = Queues(range(count), homes, range(workers)), [], 0
    while places := queues.take(rng.randrange(workers)):
        assert len(places) <= LARGEST_CHUNK and places == sorted(places)
        if lost < 3 and rng.random() < 0.2:
            lost += 1
            queues.put_back(places)
            for place in places:
                assert queues.take(0) == [place]
        taken.extend(places)
    assert sorted(taken) == list(range(count))


def test_a_candidate_goes_back_to_the_worker_that_knows_it() -> None:
    queues = Queues(range(8), {1: 1, 2: 1, 6: 0, 7: 9}, [0, 1])
    # Four each; the homeless fill up, in order.
    assert [queues.take(0), queues.take(1)] == [[0, 3], [1, 2]]
    assert [queues.take(0), queues.take(0)] == [[4], [6]]


def test_neighbours_stay_together() -> None:
    queues = Queues(range(12), {}, [0, 1, 2])
    assert [queues.take(worker) for worker in range(3)] == [[0, 1], [4, 5], [8, 9]]
