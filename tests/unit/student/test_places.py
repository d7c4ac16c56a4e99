"""Where rows come to lie: in order, and few of them elsewhere than before."""

from hypothesis import given
from hypothesis import strategies as st

from services.student.engines.places import SHORT, WIDER, in_order, settled, spans, width


@given(st.lists(st.integers(0, 3)))
def test_rows_are_put_in_order_and_those_among_their_like_stay(keys: list[int]) -> None:
    parents = in_order(keys)
    assert sorted(parents) == list(range(len(keys)))
    assert [keys[parent] for parent in parents] == sorted(keys)
    assert all(parents[place] == place for place, key in enumerate(sorted(keys)) if keys[place] == key)


@given(st.integers(0, 3), st.lists(st.integers(0, 4), max_size=9))
def test_children_take_their_parents_places_where_they_can(first: int, parents: list[int]) -> None:
    found = [(first + parent, f"child {number}") for number, parent in enumerate(parents)]
    rows, sources = settled(found, first, first + 5)
    assert sorted(zip(sources, rows, strict=True)) == sorted(found)
    for place, source in enumerate(sources, start=first):
        # A parent's place below the end goes to a child of its own.
        assert place == source or place not in dict(found)


def test_long_rows_are_a_lot_of_their_own() -> None:
    assert [width(length) for length in (1, SHORT - 1, SHORT, SHORT * WIDER - 1, SHORT * WIDER)] == [0, 0, 1, 1, 2]
    assert spans([5, 100, 20, 600, 2000]) == [(3, 101), (2, 2001)]
    assert spans([7]) == [(1, 8)]
