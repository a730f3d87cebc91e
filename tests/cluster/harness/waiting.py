"""Bounded waits: the only place of the harness that reads a clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from harness.errors import HarnessError

_POLL_EVERY = 0.2
"""Seconds. What is waited for are starts of programs on this machine: a fifth of a second is not noticed."""


class Stopwatch:
    """Measures time since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()  # noqa: TID251 - the harness measures its own waits

    def elapsed(self) -> timedelta:
        """Return the time since the stopwatch was made."""
        return timedelta(seconds=time.monotonic() - self._start)  # noqa: TID251 - as above


def wait_until(
    true: Callable[[], bool],
    *,
    within: timedelta,
    what: str,
    logs: tuple[Path, ...] = (),
    tick: Callable[[], None] | None = None,
) -> None:
    """Return as soon as a condition holds.

    Args:
        true: The condition; it has to be quick, or bounded by itself.
        within: How long to wait at most.
        what: The condition in words, to follow "waited for".
        logs: The files that say why, when it did not come true.
        tick: Called after every look that found the condition false.

    Raises:
        HarnessError: The time ran out.
    """
    watch = Stopwatch()
    while not true():
        if watch.elapsed() > within:
            raise HarnessError(f"Waited {within.total_seconds():.0f} s in vain for {what}.{_tails(logs)}")
        if tick is not None:
            tick()
        time.sleep(_POLL_EVERY)


def became_true(true: Callable[[], bool], *, within: timedelta) -> bool:
    """Say whether a condition came true in time, for callers with another plan if not."""
    try:
        wait_until(true, within=within, what="")
    except HarnessError:
        return False
    return True


def _tails(logs: tuple[Path, ...]) -> str:
    return "".join(f"\nSee {log}{tail(log)}" for log in logs)


def tail(log: Path, lines: int = 5) -> str:
    """Return the end of a log, indented, for an error message; nothing if there is no log."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    last = [line[:300] for line in text.splitlines()[-lines:]]
    return ", which ends:\n" + "\n".join(f"    {line}" for line in last) if last else " (empty)"
