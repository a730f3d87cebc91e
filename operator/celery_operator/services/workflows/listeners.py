"""The listeners of all result backends: which of them still listen, and which are still known."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from celery_operator.services.ports import Clock, ResultBackend
from celery_operator.services.workflows.listener import BackendListener, Use

LINGER_SECONDS = 60.0
"""How long a listener without runs goes on listening: the next workflow of an application usually comes soon. One that
did so for good would go on asking for a server that is gone, or with a password that has changed."""

FORGET_SECONDS = 86_400.0
"""How long it is known after that, which costs no connection: whether agents were heard there decides what may be
published again, and many an application has a workflow a day."""

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Leave:
    """What to do about listeners without runs."""

    end: frozenset[object] = frozenset()
    """Listen no longer."""
    forget: frozenset[object] = frozenset()
    look_in: float | None = None
    """Seconds after which something else is due; None: nothing will be by itself."""


def decide(uses: Mapping[K, Use], now: float) -> Leave:
    """Say which listeners have been without a run for too long by now (monotonic seconds)."""
    idle = {key: now - use.left_at for key, use in uses.items() if not use.runs}
    end = frozenset(key for key, seconds in idle.items() if uses[key].listening and seconds >= LINGER_SECONDS)
    forget = frozenset(key for key, seconds in idle.items() if seconds >= FORGET_SECONDS)
    waits = [
        (LINGER_SECONDS if uses[key].listening and key not in end else FORGET_SECONDS) - seconds
        for key, seconds in idle.items()
        if key not in forget
    ]
    return Leave(end, forget, min(waits, default=None))


class Listeners:
    """One listener for each result backend that workflows use, or did lately."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[ResultBackend, BackendListener] = {}
        self._look: asyncio.TimerHandle | None = None

    def of(self, backend: ResultBackend) -> BackendListener:
        """Return the listener of a backend: the same for all its runs."""
        listener = self._known.get(backend)
        if listener is None:
            listener = self._known[backend] = BackendListener(backend, self._clock, left=self.look)
        return listener

    def look(self) -> None:
        """Let go of what has not been needed for long, and look again when something is due."""
        plan = decide({backend: listener.use for backend, listener in self._known.items()}, self._clock.monotonic())
        for backend in tuple(self._known):
            if backend in plan.end | plan.forget:
                self._known[backend].end()
            if backend in plan.forget:
                del self._known[backend]
        if self._look is not None:
            self._look.cancel()
        self._look = None if plan.look_in is None else asyncio.get_running_loop().call_later(plan.look_in, self.look)

    async def close(self) -> None:
        """Stop listening everywhere."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        await asyncio.gather(*(listener.close() for listener in tuple(self._known.values())))
