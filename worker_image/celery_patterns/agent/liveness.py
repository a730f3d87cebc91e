"""Whether the worker's main loop still turns: a timer inside the loop sets a mark, another thread reads it.

Only a loop that should turn is judged: not before it has started, not while Celery reconnects to the broker (it then
waits outside the loop), not while it shuts down, and not where tasks run in the loop's own thread (solo, and green
pools, whose loop is not Celery's).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery_patterns import protocol

TICK_SECONDS = 2.0


class Liveness:
    """The mark and its age."""

    def __init__(
        self, limit_seconds: float = protocol.LIVE_LIMIT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit_seconds
        self._clock = clock
        self._ticked: float | None = None

    def watch(self, consumer: Any, *, busy_loop: bool) -> None:
        """Start judging the loop of a consumer that is about to consume."""
        if consumer.hub is None or busy_loop:
            return
        self._ticked = self._clock()
        consumer.timer.call_repeatedly(TICK_SECONDS, self._tick)

    def rest(self) -> None:
        """Stop judging: the loop has ended, or waits for the broker."""
        self._ticked = None

    def stalled_seconds(self) -> float | None:
        """Return for how long the loop has not turned if that is too long, else None."""
        ticked = self._ticked
        if ticked is None:
            return None
        age = self._clock() - ticked
        return age if age > self._limit else None

    def _tick(self) -> None:
        if self._ticked is not None:
            self._ticked = self._clock()
