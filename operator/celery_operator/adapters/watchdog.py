"""Ends the process when its lease may soon be another's, whatever the event loop is doing at that moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

EXIT_LEASE_LOST = 75
"""Exit status (EX_TEMPFAIL): nothing is wrong with the program, it must only not go on; Kubernetes starts it again."""

LOOK_EVERY_SECONDS = 0.2


def exit_at_once() -> None:
    """End the process without any cleaning up: every further statement could be a write as a leader that is none."""
    os._exit(EXIT_LEASE_LOST)


class Watchdog:
    """A thread that looks at the time of the last renewal, several times a second.

    A process that was stopped (SIGSTOP, a frozen machine) runs this thread as soon as it goes on: the thread's wait is
    over by then, and the monotonic clock has gone on.

    Args:
        deadline_seconds: Longest time since the last renewal.
        monotonic: Seconds that go on while the process is stopped or the machine sleeps.
        expired: Called in the thread, once, when the deadline has passed.
    """

    def __init__(
        self,
        deadline_seconds: float,
        monotonic: Callable[[], float],
        expired: Callable[[], None] = exit_at_once,
        *,
        look_every_seconds: float = LOOK_EVERY_SECONDS,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._monotonic = monotonic
        self._expired = expired
        self._look_every_seconds = look_every_seconds
        self._renewed_at = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def in_time(self) -> bool:
        """Whether the last renewal is recent enough (and there was one)."""
        return self._thread is not None and self._monotonic() - self._renewed_at < self._deadline_seconds

    def renewed(self, asked_at: float) -> None:
        """Note a renewal and begin to watch; ``asked_at`` is when its request was sent (monotonic seconds)."""
        self._renewed_at = asked_at
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="lease-watchdog", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(self._look_every_seconds):
            if self._monotonic() - self._renewed_at >= self._deadline_seconds:
                self._expired()
                return

    def stop(self) -> None:
        """End the watch: nothing is done as a leader any more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._thread = None
