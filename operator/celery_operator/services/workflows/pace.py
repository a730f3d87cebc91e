"""How soon a run shows itself, writes itself down and looks for what it missed: later, the more runs there are.

Without this, a thousand workflows that arrive together would each write a status and a checkpoint, and sweep, while
they wait for their turn, and that would be what they wait for.
"""

from __future__ import annotations

from datetime import timedelta

STATUS_SHARE = timedelta(milliseconds=40)
"""Between two status writes on the way, over all runs: at most 25 a second. A small API server takes some 150 writes of
all sorts in a second, and the runs' ends are what it should be busy with."""

CHECKPOINT_SHARE = timedelta(milliseconds=100)
"""The same for checkpoints, which cost two writes: nothing is lost by a late one, only read again from the results."""

SWEEP_SHARE = timedelta(milliseconds=5)
"""The same for sweeps of runs whose tasks wait: four exchanges each."""

CALM_RUNS = 100
"""Up to so many at once, each success is an Event too; beyond it the status alone tells: an Event is one write more."""


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

    @property
    def calm(self) -> bool:
        """Whether there are few enough runs for what is merely nice to have."""
        return self._runs <= CALM_RUNS

    def status(self, least: timedelta) -> timedelta:
        """Return how long a run should wait for its next status write on the way; ``least`` if it is alone."""
        return max(least, self._runs * STATUS_SHARE)

    def checkpoint(self, least: timedelta) -> timedelta:
        """Return how long a run should wait for its next checkpoint; ``least`` if it is alone."""
        return max(least, self._runs * CHECKPOINT_SHARE)

    def sweep(self, least: timedelta) -> timedelta:
        """Return how long a run should wait for its next sweep; ``least`` if it is alone."""
        return max(least, self._runs * SWEEP_SHARE)
