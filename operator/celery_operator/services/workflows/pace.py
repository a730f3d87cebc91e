"""How soon a run shows itself, writes itself down and looks for what it missed: later, the more runs there are.

Without this, a thousand workflows that arrive together would each write a status and a checkpoint, and sweep, while
they wait for their turn, and that would be what they wait for.
"""

from __future__ import annotations

from datetime import timedelta

STATUS_SHARE = timedelta(milliseconds=10)
"""Between two status writes on the way, over all runs: at most 100 a second, half of what a small API server takes."""

CHECKPOINT_SHARE = timedelta(milliseconds=20)
"""The same for checkpoints, which cost two writes: nothing is lost by a late one, only read again from the results."""

SWEEP_SHARE = timedelta(milliseconds=5)
"""The same for sweeps of runs whose tasks wait: four exchanges each."""


class Pace:
    """Counts the runs that are under way."""

    def __init__(self) -> None:
        self._runs = 0

    def enter(self) -> None:
        """A run begins."""
        self._runs += 1

    def leave(self) -> None:
        """A run has ended."""
        self._runs -= 1

    def status(self, least: timedelta) -> timedelta:
        """Return how long a run should wait for its next status write on the way; ``least`` if it is alone."""
        return max(least, self._runs * STATUS_SHARE)

    def checkpoint(self, least: timedelta) -> timedelta:
        """Return how long a run should wait for its next checkpoint; ``least`` if it is alone."""
        return max(least, self._runs * CHECKPOINT_SHARE)

    def sweep(self, least: timedelta) -> timedelta:
        """Return how long a run should wait for its next sweep; ``least`` if it is alone."""
        return max(least, self._runs * SWEEP_SHARE)
