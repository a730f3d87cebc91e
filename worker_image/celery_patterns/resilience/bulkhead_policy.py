"""The bulkhead as a task's policy: at most so many executions at once, kept by the lease of the task itself."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from celery_patterns.resilience import bulkhead
from celery_patterns.resilience.bulkhead import BulkheadFull
from celery_patterns.store.leases import KEEP_MS
from celery_patterns.tasks import options
from celery_patterns.tasks.keys import check_template, render
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Admit, Call, Decision, Defer, Fragment, Outcome, Policy, Refuse, Step

FRAGMENT: Final = Fragment(
    "bulkhead",
    admit=bulkhead.TAKE_CHUNK.replace("now + lease", "now + LEASE"),
    undo=bulkhead.LEAVE_CHUNK,
    settle=bulkhead.LEAVE_CHUNK,
)

WAIT_SECONDS: Final = (1.0, 15.0)
"""Bounds of a deferral: places become free long before the first lease ends."""


@dataclass(frozen=True)
class Limit(Policy):
    """Let at most ``limit`` executions run at once, in the whole fleet.

    Args:
        key: The bulkhead's name, a template over the task's arguments: ``"reports"``, ``"db:{shard}"``.
        limit: How many.
        on_full: ``defer``: the message comes back later, at no cost of retries; ``fail``: the task fails with
            BulkheadFull.
        max_defer: The longest a task is deferred in all before it fails; None: for ever.

    A dead worker's place is free when the task's lease is over (``patterns_lease_seconds``). While the store does not
    answer, the task is deferred: a limit that nobody can count is no limit.
    """

    name: ClassVar[str] = "bulkhead"
    order: ClassVar[int] = 40
    needs_store: ClassVar[bool] = True

    key: str
    limit: int
    on_full: str = "defer"
    max_defer: options.Duration | None = None

    def __post_init__(self) -> None:
        options.text("bulkhead: key", self.key)
        options.whole("bulkhead: limit", self.limit, low=1)
        options.choice("bulkhead: on_full", self.on_full, ("defer", "fail"))
        if self.max_defer is not None:
            options.duration("bulkhead: max_defer", self.max_defer)

    def bind(self, task: Any) -> None:  # type: ignore[explicit-override]
        """Check the name's template against the task's arguments."""
        check_template("bulkhead: key", self.key, task)

    def admission(self, call: Call) -> Step:  # type: ignore[explicit-override]
        """Ask for a place."""
        patterns = patterns_of(call.task.app)
        lease = getattr(call.task, "lease_seconds", patterns.store.settings.lease_seconds)
        arguments = (self.limit, int(lease * 1000), KEEP_MS)
        return Step(FRAGMENT, (self._key(call),), arguments)

    def admitted(self, call: Call, reply: list[Any]) -> Decision:  # type: ignore[explicit-override]
        """Run it, or what ``on_full`` says."""
        full, left = bulkhead.read_take(reply)
        if not full:
            return Admit()
        if self.on_full == "fail":
            return Refuse(BulkheadFull(render(self.key, call.arguments), self.limit, left))
        shortest, longest = WAIT_SECONDS
        # Many wait for one place: the more often it was in vain, the longer the pause.
        seconds = min(longest, shortest * 1.5 ** min(call.deferrals, 16)) * (0.5 + random.random())
        limit = None if self.max_defer is None else options.duration("bulkhead: max_defer", self.max_defer)
        return Defer(seconds, f"the bulkhead {render(self.key, call.arguments)!r} is full", give_up_after=limit)

    def settlement(self, call: Call, outcome: Outcome, result: Any, seconds: float) -> Step:  # type: ignore[explicit-override]
        """Give the place back."""
        del outcome, result, seconds
        return Step(FRAGMENT, (self._key(call),))

    def _key(self, call: Call) -> str:
        return patterns_of(call.task.app).key("bulkhead", render(self.key, call.arguments))
