"""The calls of a reduce: levels of ``combine``, then one ``task``; indexes run through the levels in order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Slice(NamedTuple):
    """The values that one call joins."""

    of_source: bool
    """True: items of the source map. False: earlier calls of the same reduce."""
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Tree:
    """The shape of a reduce over a known number of values."""

    values: int
    levels: tuple[int, ...]
    """Calls in each level; the last is the one call of ``task``."""

    @property
    def calls(self) -> int:
        """How many tasks the reduce has."""
        return sum(self.levels)

    def slice_of(self, index: int) -> Slice:
        """Return what the call at this index joins. Slices of a level differ in length by at most one."""
        inputs, first_input, first = self.values, 0, 0
        for level, calls in enumerate(self.levels):
            if index < first + calls:
                position = index - first
                return Slice(
                    of_source=level == 0,
                    start=first_input + position * inputs // calls,
                    stop=first_input + (position + 1) * inputs // calls,
                )
            inputs, first_input, first = calls, first, first + calls
        raise IndexError(f"a reduce of {self.calls} calls has no index {index}")


@lru_cache(maxsize=1024)
def tree_over(values: int, fan_in: int | None) -> Tree:
    """Return the tree that joins ``values`` results, at most ``fan_in`` at a time; None: all at once, no combine."""
    levels: list[int] = []
    left = values
    while fan_in is not None and left > fan_in:
        left = -(-left // fan_in)
        levels.append(left)
    return Tree(values, (*levels, 1))
