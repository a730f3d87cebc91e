"""One listener for each result backend: takes what workers announce to the run it belongs to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from celery_operator.domain.workflows.plan import Outcome, OutcomeState
from celery_operator.services.ports import Clock, ResultBackend
from celery_patterns.protocol import (
    CLAIM_LEASE_SECONDS,
    FAILURE,
    REJECTED,
    RETRY,
    REVOKED,
    STARTED,
    SUCCESS,
    Announcement,
)

SETTLED_AFTER = timedelta(seconds=CLAIM_LEASE_SECONDS / 2)
"""A result backend that was away knows old leases only, of workers that live: each renews its own within a third of the
lease once it is back. Nobody is taken for dead before that time is over."""

TIME_LIMIT_EXCEPTIONS = frozenset({"TimeLimitExceeded", "SoftTimeLimitExceeded"})
"""Exception types by which Celery tells that a task's time was over."""

LOST_EXCEPTIONS = frozenset({"WorkerLostError", "Terminated"})
"""Exception types by which Celery tells that the process that ran a task died."""

_STATES: dict[str, OutcomeState] = {
    STARTED: "started",
    SUCCESS: "succeeded",
    RETRY: "retrying",
    REVOKED: "revoked",
    REJECTED: "failed",
}


def failure_state(exception: str) -> OutcomeState:
    """Classify a FAILURE by the name of its exception, as ``retry.classes`` means it."""
    if exception in TIME_LIMIT_EXCEPTIONS:
        return "timed_out"
    return "lost" if exception in LOST_EXCEPTIONS else "failed"


def to_outcome(announcement: Announcement, now: datetime) -> Outcome | None:
    """Translate what a worker says into what a planner observes; None for a state this operator does not know."""
    state = failure_state(announcement.exception) if announcement.state == FAILURE else _STATES.get(announcement.state)
    if state is None:
        return None
    identity = announcement.identity
    return Outcome(
        step=identity.step,
        index=identity.index,
        attempt=identity.attempt,
        state=state,
        size=announcement.size,
        value=announcement.value,
        has_value=announcement.has_value,
        exception=announcement.exception,
        message=announcement.message,
        worker=announcement.worker,
        time=now,
    )


class Listening(Protocol):
    """A run, as its listener sees it."""

    run_number: int

    def hear(self, outcomes: list[Outcome]) -> None:
        """Take note of what happened."""
        ...

    def look_again(self) -> None:
        """Something may have been missed: sweep soon."""
        ...


@dataclass(frozen=True, slots=True)
class Use:
    """How far a listener is needed."""

    runs: int
    left_at: float
    """Since when it has no run (or since it was made), in monotonic seconds; means nothing while it has one."""
    listening: bool


class BackendListener:
    """Follows the announcements of one result backend from its first run on, until it is told to end.

    Args:
        backend: Whose announcements.
        clock: Time.
        left: Called when its last run has gone.
    """

    def __init__(self, backend: ResultBackend, clock: Clock, left: Callable[[], None] = lambda: None) -> None:
        self.backend = backend
        self.heard_agents = False
        """True once any worker has announced anything here: its agents guard attempts, so publishing again is safe."""
        self._answers_since: datetime | None = None
        """None: it does not answer, or nobody has asked it."""
        self._clock = clock
        self._runs: dict[str, Listening] = {}
        self._task: asyncio.Task[None] | None = None
        self._left = left
        self._left_at = clock.monotonic()

    @property
    def settled(self) -> bool:
        """Whether the backend has answered for so long that every living worker has renewed its claims there."""
        since = self._answers_since
        return since is not None and self._clock.now() - since >= SETTLED_AFTER

    def answered(self) -> None:
        """Take note that the backend answers."""
        self._answers_since = self._answers_since or self._clock.now()

    def failed(self) -> None:
        """Take note that the backend does not answer."""
        self._answers_since = None

    @property
    def use(self) -> Use:
        """How far it is needed."""
        return Use(runs=len(self._runs), left_at=self._left_at, listening=self._task is not None)

    def add(self, uid: str, run: Listening) -> None:
        """Begin to tell a run what is announced for its uid."""
        self._runs[uid] = run
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="announcements")

    def remove(self, uid: str) -> None:
        """End it."""
        if self._runs.pop(uid, None) is not None and not self._runs:
            self._left_at = self._clock.monotonic()
            self._left()

    def end(self) -> None:
        """Stop listening, soon; the next run makes it listen again."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _listen(self) -> None:
        async for batch in self.backend.announcements():
            if not batch:
                self._answers_since = self._clock.now()  # whether for the first time or again is not known
                for run in tuple(self._runs.values()):
                    run.look_again()
                continue
            self.heard_agents = True
            self._deliver(batch)

    def _deliver(self, batch: tuple[Announcement, ...]) -> None:
        now = self._clock.now()
        by_uid: dict[str, list[Outcome]] = defaultdict(list)
        for announcement in batch:
            identity = announcement.identity
            run = self._runs.get(identity.uid)
            if run is None or identity.run != run.run_number:
                continue
            outcome = to_outcome(announcement, now)
            if outcome is not None:
                by_uid[identity.uid].append(outcome)
        for uid, outcomes in by_uid.items():
            self._runs[uid].hear(outcomes)
