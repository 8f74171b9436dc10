"""What was used last is what is kept."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from gqasearch.evaluation.recent import Recent


def test_the_least_recently_used_goes_first() -> None:
    kept: Recent[str, int] = Recent(6, lambda size: size)
    for key, size in (("a", 1), ("b", 2), ("c", 3)):
        kept.put(key, size)
    assert kept.get("a") == 1
    kept.put("d", 2)
    assert [kept.get(key) for key in "abcd"] == [1, None, 3, 2]
    kept.put("c", 1)  # a known key gets its new value, and its new size
    assert (kept.bytes, len(kept)) == (4, 3)


def test_what_is_larger_than_the_bound_pushes_nothing_out() -> None:
    kept: Recent[str, int] = Recent(6, lambda size: size)
    kept.put("a", 3)
    kept.put("b", 7)
    assert (kept.get("a"), kept.get("b"), kept.bytes) == (3, None, 3)
    kept.put("a", 7)  # and the old value is not taken for the new one
    assert (kept.get("a"), kept.bytes, len(kept)) == (None, 0, 0)


@given(st.integers(0, 12), st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 5))))
def test_against_a_list_in_the_order_of_use(bound: int, calls: list[tuple[bool, int, int]]) -> None:
    kept: Recent[int, int] = Recent(bound, lambda size: size)
    wanted: OrderedDict[int, int] = OrderedDict()
    for is_put, key, size in calls:
        if is_put:
            wanted.pop(key, None)
            kept.put(key, size)
            if size <= bound:
                wanted[key] = size
            while sum(wanted.values()) > bound:
                del wanted[next(iter(wanted))]
        else:
            assert kept.get(key) == wanted.get(key)
            if key in wanted:
                wanted.move_to_end(key)
        assert kept.bytes == sum(wanted.values()) <= bound
        assert len(kept) == len(wanted)
