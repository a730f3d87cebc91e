"""A run's state while one plan is made: changed in place, copied only where it changes, frozen again at the end."""

from __future__ import annotations

import dataclasses
import heapq
from datetime import datetime
from typing import Any

from celery_operator.api.workflow import StepState as StepPhase
from celery_operator.domain.messages import Resumption
from celery_operator.domain.workflows.graph import Graph, Node
from celery_operator.domain.workflows.state import (
    CODES,
    FINAL_PHASES,
    KEPT_FAILURES,
    Cause,
    Code,
    Due,
    Failure,
    RunState,
    StepState,
)
from celery_patterns.protocol import task_id

_SKIP = bytes.maketrans(bytes((Code.PENDING, Code.WAITING)), bytes((Code.SKIPPED,)) * 2)


class StepDraft:
    """One step, open to change."""

    __slots__ = (
        "_attempts",
        "_attempts_owned",
        "_due",
        "_original",
        "_resumptions",
        "cause",
        "changed",
        "counts",
        "ended",
        "error",
        "items",
        "lost",
        "node",
        "phase",
        "size",
        "started",
    )

    def __init__(self, node: Node, state: StepState) -> None:
        self.node = node
        self._original = state
        self.changed = False
        self.phase: StepPhase = state.phase
        self.items: bytes | bytearray | None = state.items
        self.counts = list(state.counts)
        self._attempts: dict[int, int] = state.attempts  # type: ignore[assignment]  # copied before the first change
        self._attempts_owned = False
        self._due: list[Due] | None = None
        self._resumptions = state.resumptions
        self.started = state.started
        self.ended = state.ended
        self.lost = state.lost
        self.size = state.size
        self.cause = state.cause
        self.error = state.error

    @property
    def final(self) -> bool:
        """Whether the step has ended."""
        return self.phase in FINAL_PHASES

    @property
    def active(self) -> int:
        """Tasks published and not finished."""
        return self.counts[Code.PUBLISHED] + self.counts[Code.RUNNING]

    @property
    def open(self) -> int:
        """Tasks that have not ended."""
        return self.counts[Code.PENDING] + self.counts[Code.WAITING] + self.active

    @property
    def doomed(self) -> bool:
        """Whether it cannot succeed any more."""
        return self.error is not None or self.counts[Code.FAILED] > self.node.max_failed

    @property
    def attempts(self) -> dict[int, int]:
        """Attempt numbers that are not 1; not to be changed by the caller."""
        return self._attempts

    @property
    def next_due(self) -> datetime | None:
        """When the next retry may be due; never too late."""
        due = self._original.due if self._due is None else self._due
        return due[0].at if due and self.counts[Code.WAITING] else None

    def attempt(self, index: int) -> int:
        """Return the number of an item's last attempt, or of its first one to come."""
        return self._attempts.get(index, 1)

    def set_attempt(self, index: int, attempt: int) -> None:
        """Note the number of an item's attempt."""
        if not self._attempts_owned:
            self._attempts = dict(self._attempts)
            self._attempts_owned = True
        self._attempts[index] = attempt
        self._begin_anew(index)
        self.changed = True

    def resumption(self, index: int) -> Resumption | None:
        """Return where a pending item goes on; None: from the beginning of its attempt."""
        return self._resumptions.get(index)

    def resume(self, index: int, at: Resumption) -> None:
        """Let a pending item go on there when it is published."""
        self._resumptions = {**self._resumptions, index: at}
        self.changed = True

    def _begin_anew(self, index: int) -> None:
        if index in self._resumptions:
            self._resumptions = {each: at for each, at in self._resumptions.items() if each != index}

    def allocate(self, count: int) -> None:
        """Note how many items there are."""
        self.items = bytearray(count)
        self.counts = [count, *(0,) * (CODES - 1)]
        self.changed = True

    def set_code(self, index: int, code: Code) -> None:
        """Note what became of an item."""
        items = self.items
        if not isinstance(items, bytearray):
            items = self.items = bytearray(items or b"")
        self.counts[items[index]] -= 1
        self.counts[code] += 1
        items[index] = code
        if self._resumptions:
            self._begin_anew(index)
        self.changed = True

    def wait(self, due: Due) -> None:
        """Let an item wait for its next attempt."""
        self.set_attempt(due.item, due.attempt)
        self.set_code(due.item, Code.WAITING)
        heapq.heappush(self._own_due(), due)

    def release_due(self, now: datetime) -> None:
        """Make the items pending whose time has come."""
        first = self.next_due
        if first is None or first > now:
            return
        due = self._own_due()
        while due and due[0].at <= now:
            each = heapq.heappop(due)
            if self.items is not None and self.items[each.item] == Code.WAITING and self.fits(each):
                self.set_code(each.item, Code.PENDING)

    def fits(self, due: Due) -> bool:
        """Whether a heap entry still speaks of the item's attempt."""
        return self.attempt(due.item) == due.attempt

    def _own_due(self) -> list[Due]:
        if self._due is None:
            self._due = list(self._original.due)
        self.changed = True
        return self._due

    def skip_unpublished(self) -> None:
        """Give up all items that are not published."""
        gone = self.counts[Code.PENDING] + self.counts[Code.WAITING]
        if self.items is None or not gone:
            return
        self.items = bytearray(self.items.translate(_SKIP))
        self.counts[Code.SKIPPED] += gone
        self.counts[Code.PENDING] = self.counts[Code.WAITING] = 0
        self._own_due().clear()
        self._resumptions = {}

    def end(self, phase: StepPhase, now: datetime) -> None:
        """Note that the step has ended."""
        self.phase = phase
        self.ended = now
        self._own_due().clear()

    def start(self, now: datetime) -> None:
        """Note that the step has begun."""
        self.phase = "Running"
        self.started = now
        self.changed = True

    def blame(self, cause: Cause) -> None:
        """Keep the cause with the lowest index."""
        if self.cause is None or (cause.index, cause.attempt) < (self.cause.index, self.cause.attempt):
            self.cause = cause
            self.changed = True

    def fail_whole(self, error: str) -> None:
        """Note why the step cannot go on."""
        self.error = self.error or error
        self.changed = True

    def frozen(self) -> StepState:
        """Return the state as a value."""
        if not self.changed:
            return self._original
        return StepState(
            phase=self.phase,
            items=None if self.items is None else bytes(self.items),
            counts=tuple(self.counts),
            attempts=self._attempts,
            due=self._original.due if self._due is None else tuple(self._due),
            started=self.started,
            ended=self.ended,
            lost=self.lost,
            size=self.size,
            cause=self.cause,
            error=self.error,
            resumptions=self._resumptions,
        )


class RunDraft:
    """A run, open to change. Steps are opened when they are first asked for."""

    def __init__(self, graph: Graph, state: RunState, *, uid: str) -> None:
        self.graph = graph
        self.original = state
        self.uid = uid
        self.run = state.run
        self.deadline_exceeded = state.deadline_exceeded
        self._steps: dict[str, StepDraft] = {}
        self._failures: list[Failure] = []
        self._values: dict[str, Any] | None = None
        self._lists: dict[str, list[Any]] | None = None
        self._unreadable: dict[str, str] | None = None

    def step(self, name: str) -> StepDraft:
        """Return a step of the graph."""
        draft = self._steps.get(name)
        if draft is None:
            draft = self._steps[name] = StepDraft(self.graph.by_name[name], self.original.steps[name])
        return draft

    def look(self, name: str) -> StepState | StepDraft:
        """Return a step to read from, without opening it."""
        return self._steps.get(name) or self.original.steps[name]

    def task_id(self, step: str, index: int, attempt: int) -> str:
        """Return the id of one attempt."""
        return task_id(self.uid, self.run, step, index, attempt)

    def record(self, failure: Failure) -> None:
        """Remember a failed attempt."""
        self._failures.append(failure)

    @property
    def values(self) -> dict[str, Any]:
        """Known results; not to be changed by the caller."""
        return self.original.values if self._values is None else self._values  # type: ignore[return-value]

    @property
    def lists(self) -> dict[str, list[Any]]:
        """Fetched lists by map; not to be changed by the caller."""
        return self.original.lists if self._lists is None else self._lists  # type: ignore[return-value]

    @property
    def unreadable(self) -> dict[str, str]:
        """Results that cannot be had; not to be changed by the caller."""
        return self.original.unreadable if self._unreadable is None else self._unreadable  # type: ignore[return-value]

    def keep_value(self, key: str, value: Any) -> None:
        """Remember a result."""
        if self._values is None:
            self._values = dict(self.original.values)
        self._values[key] = value

    def drop_value(self, key: str) -> None:
        """Forget a result."""
        if key in self.values:
            self._values = {name: value for name, value in self.values.items() if name != key}

    def keep_list(self, step: str, items: list[Any]) -> None:
        """Remember what a map runs over."""
        self._lists = {**self.lists, step: items}

    def drop_list(self, step: str) -> None:
        """Forget what a map runs over."""
        if step in self.lists:
            self._lists = {name: items for name, items in self.lists.items() if name != step}

    def keep_unreadable(self, key: str, why: str) -> None:
        """Remember that a result cannot be had."""
        self._unreadable = {**self.unreadable, key: why}

    def frozen(self) -> RunState:
        """Return the state as a value; the original one if nothing changed."""
        original = self.original
        changed = {name: draft.frozen() for name, draft in self._steps.items() if draft.changed}
        failures = original.failures
        if self._failures:
            failures = tuple(sorted({*failures, *self._failures}, key=lambda each: each.order)[-KEPT_FAILURES:])
        same = (
            not changed
            and failures == original.failures
            and self.deadline_exceeded == original.deadline_exceeded
            and (self._values, self._lists, self._unreadable) == (None, None, None)
        )
        if same:
            return original
        return dataclasses.replace(
            original,
            steps={**original.steps, **changed},
            failures=failures,
            deadline_exceeded=self.deadline_exceeded,
            values=self.values,
            lists=self.lists,
            unreadable=self.unreadable,
        )
