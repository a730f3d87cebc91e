"""When the announcer gathers ends into one message: in a fan-out, never in a chain."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from celery_patterns.agent.announcer import BUSY_COUNT, BUSY_SECONDS, Announcer

STEP = ("uid", "all")


def announcer(*, more_at_hand: bool) -> Announcer:
    return Announcer(None, worker="w", lease_seconds=30, more_at_hand=lambda: more_at_hand, on_tick=lambda: None)


def ends(count: int, age: float, step_of: Callable[[int], tuple[str, str]]) -> list[tuple[float, str, str]]:
    now = time.monotonic()  # noqa: TID251 - what the announcer reads, too
    return [(now - age, *step_of(number)) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "age", "step_of", "more_at_hand", "gathers"),
    [
        pytest.param(BUSY_COUNT, 0.0, lambda _: STEP, False, True, id="a fan-out, one task at a time"),
        pytest.param(BUSY_COUNT, 0.0, lambda n: ("uid", f"s{n}"), False, False, id="a chain"),
        pytest.param(BUSY_COUNT, 0.0, lambda n: (f"uid-{n}", "all"), False, False, id="many small workflows"),
        pytest.param(BUSY_COUNT, 0.0, lambda n: (f"uid-{n}", "all"), True, True, id="many of which some wait here"),
        pytest.param(BUSY_COUNT, BUSY_SECONDS, lambda _: STEP, True, False, id="slow tasks"),
        pytest.param(BUSY_COUNT - 1, 0.0, lambda _: STEP, True, False, id="the first few"),
    ],
)
def test_ends_are_gathered_where_nobody_waits_for_each(
    *, count: int, age: float, step_of: Callable[[int], tuple[str, str]], more_at_hand: bool, gathers: bool
) -> None:
    one = announcer(more_at_hand=more_at_hand)
    one._ends.extend(ends(count, age, step_of))
    assert one._is_busy() is gathers
