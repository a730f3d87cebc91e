"""A reduce joins every value exactly once, in order, never more than fanIn at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_operator.domain.workflows.tree import Slice, Tree, tree_over


@pytest.mark.parametrize(
    ("values", "fan_in", "levels"),
    [
        (0, 2, (1,)),
        (1, 2, (1,)),
        (2, 2, (1,)),
        (3, 2, (2, 1)),
        (5, 2, (3, 2, 1)),
        (100, 100, (1,)),
        (101, 100, (2, 1)),
        (100_000, 100, (1000, 10, 1)),
        (1_000_000, None, (1,)),
    ],
)
def test_levels(values: int, fan_in: int | None, levels: tuple[int, ...]) -> None:
    assert tree_over(values, fan_in) == Tree(values, levels)


def test_slices_of_the_first_level_are_of_the_map_and_later_ones_of_the_calls_before() -> None:
    tree = tree_over(5, 2)
    assert [tree.slice_of(index) for index in range(tree.calls)] == [
        Slice(of_source=True, start=0, stop=1),
        Slice(of_source=True, start=1, stop=3),
        Slice(of_source=True, start=3, stop=5),
        Slice(of_source=False, start=0, stop=1),
        Slice(of_source=False, start=1, stop=3),
        Slice(of_source=False, start=3, stop=5),
    ]
    with pytest.raises(IndexError, match="a reduce of 6 calls has no index 6"):
        tree.slice_of(6)


@given(st.integers(0, 3000), st.integers(2, 50))
def test_joins_all_values_in_order(values: int, fan_in: int) -> None:
    tree = tree_over(values, fan_in)
    joined: list[list[int]] = []
    for index in range(tree.calls):
        part = tree.slice_of(index)
        assert part.stop - part.start <= fan_in
        if part.of_source:
            joined.append(list(range(part.start, part.stop)))
        else:
            assert part.stop <= index
            joined.append([value for call in joined[part.start : part.stop] for value in call])
    assert joined[-1] == list(range(values))
