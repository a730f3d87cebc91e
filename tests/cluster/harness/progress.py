"""Showing what goes on: a live line on a terminal, plain lines elsewhere, never a long silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.status import Status

from harness.waiting import Stopwatch

_PLAIN_LINE_EVERY = timedelta(seconds=15)
"""Often enough to see that it goes on, rarely enough for a CI log."""


class Step:
    """One thing that takes a while."""

    def __init__(self, title: str, console: Console, status: Status | None) -> None:
        self._title = title
        self._console = console
        self._status = status
        self._watch = Stopwatch()
        self._last_line = Stopwatch()

    def update(self, detail: str) -> None:
        """Say how far it is; cheap enough to be called for every line of a program's output."""
        text = f"{self._title}: {detail} ({show(self._watch.elapsed())})"
        if self._status is not None:
            self._status.update(text)
        elif self._last_line.elapsed() >= _PLAIN_LINE_EVERY:
            self._console.print(f"  {text}")
            self._last_line = Stopwatch()

    def summary(self) -> str:
        """Return title and time, for the line that stays."""
        return f"{self._title} ({show(self._watch.elapsed())})"


class Progress:
    """Prints steps to one console, which is standard error: standard output belongs to `env` and `kubeconfig`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step while the block runs; the line that stays says how long it took."""
        if self._console.is_terminal:
            with self._console.status(title) as status:
                step = Step(title, self._console, status)
                yield step
        else:
            self._console.print(f"  {title} ...")
            step = Step(title, self._console, None)
            yield step
        self._console.print(f"✓ {step.summary()}")


def show(duration: timedelta) -> str:
    """Return a duration for people: `0.4 s`, `12 s`, `3 min 5 s`."""
    seconds = duration.total_seconds()
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
