"""A task's own record against a model: deliveries, progress, checkpoint, the wish to stop, in whatever order they come.

The scripts are the real ones on a real server; only their clock is the test's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from celery_patterns.store import StoreSettings
from celery_patterns.store.leases import KEEP_MS, RELEASE, RENEW
from celery_patterns.tasks import PatternTask, composition, install
from celery_patterns.tasks.composition import SHOW_MS, Taken
from celery_patterns.tasks.policy import Call, Fragment, Outcome, Step
from celery_patterns.tasks.state import _CANCEL, _CHECKPOINT, _PROGRESS, TaskState, ask_to_stop, read_report
from patterns.resilience.clocked import ClockedStore, play
from servers import RedisServer

pytestmark = pytest.mark.every_redis

LEASE_MS = 3_000
GATE = Fragment("gate", admit="if A[1] == 'stop' then return {1} end\nreturn {0}", settle="return 0")
"""A policy that stops where the test says so."""


def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def clocked(redis: RedisServer) -> Iterator[ClockedStore]:
    with Celery("states", set_as_current=False) as app:
        store = ClockedStore(install(app), StoreSettings(url=redis.url(7)))
        yield store
        store.close()


@dataclass
class Record:
    """What the documentation says of one task."""

    token: str | None = None
    until: int = 0
    deliveries: int = 0
    done: float | None = None
    checkpoint: str | None = None
    asked_to_stop: bool = False
    outcome: str | None = None

    def admit(self, token: str, now: int, *, stop: bool) -> tuple[Any, ...]:
        if self.token not in (None, token) and self.until > now:
            return ("running", self.until - now)
        asks_again = self.token == token and self.until != 0
        self.token = token
        if stop:
            self.until = 0
            self.deliveries -= asks_again
            if self.deliveries <= 0 and self.done is None and not self.asked_to_stop and self.checkpoint is None:
                self.token, self.deliveries = None, 0
            return ("stopped",)
        if self.outcome is not None:
            self.deliveries, self.done, self.outcome = 0, None, None
        self.until = now + LEASE_MS
        self.deliveries += not asks_again
        return ("admitted", self.deliveries, self.checkpoint)

    def settle(self, token: str, outcome: Outcome) -> bool:
        if self.token != token:
            return False
        ended = outcome is not Outcome.RETRY
        if ended and self.done is None:
            self.__init__()  # type: ignore[misc] # nothing of it is left
        else:
            self.until = 0
            if ended:
                self.checkpoint, self.asked_to_stop, self.outcome = None, False, outcome.value
        return True

    def writes(self, token: str) -> bool:
        return self.token in (None, token) and self.outcome is None


which = st.integers(0, 5)
admits = st.tuples(st.just("admit"), st.sampled_from("ab"), st.sampled_from([True, False, False]))
Event = st.one_of(
    admits,
    admits,
    st.tuples(st.just("again"), which, st.booleans()),
    st.tuples(st.just("settle"), which, st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY])),
    st.tuples(st.just("report"), which, st.integers(0, 9)),
    st.tuples(st.just("save"), which, st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.sampled_from("ab")),
    st.tuples(st.just("renew"), which),
    st.tuples(st.just("release"), which),
    st.tuples(st.just("pass"), st.sampled_from([1, 1_000, LEASE_MS])),
    st.tuples(st.just("flush")),
)


class Stage:
    """Drives the scripts and the model side by side."""

    def __init__(self, store: ClockedStore) -> None:
        store.client.flushdb()
        store.set_clock(1_800_000_000_000)
        self.store = store
        app: Any = store._app
        self.task = app.tasks.get("states") or app.task(base=PatternTask, name="states", shared=False)(nothing)
        self.records = {"a": Record(), "b": Record()}
        self.calls: list[Call] = []

    def admit(self, task_id: str, stop: bool) -> None:  # noqa: FBT001
        self._admit(Call(task=self.task, id=task_id, token=f"t{len(self.calls)}", arguments={}), stop=stop)

    def again(self, number: int, stop: bool) -> None:  # noqa: FBT001
        """The same delivery asks once more, its first answer being lost; the policies may have changed their mind."""
        if self.calls:
            self._admit(self._call(number), stop=stop)

    def _admit(self, call: Call, *, stop: bool) -> None:
        self.calls.append(call)
        step = Step(GATE, (), ("stop" if stop else "go",))
        answer = composition.admit(self.store, call, [step], LEASE_MS / 1000)
        found: tuple[Any, ...] = {
            Taken.RUNNING: ("running", answer.left * 1000),
            Taken.STOPPED: ("stopped",),
            Taken.ADMITTED: ("admitted", answer.deliveries, answer.checkpoint and answer.checkpoint.decode()),
        }[answer.taken]
        assert found == self.records[call.id].admit(call.token, self.store.now_ms, stop=stop)

    def settle(self, number: int, outcome: Outcome) -> None:
        if self.calls:
            call = self._call(number)
            mine, _ = composition.settle(self.store, call, [Step(GATE, ())], outcome)
            assert mine == self.records[call.id].settle(call.token, outcome)

    def report(self, number: int, done: int) -> None:
        if self.calls:
            call = self._call(number)
            record = self.records[call.id]
            assert self._state(call).report(done, 9, "") == record.writes(call.token)
            if record.writes(call.token):
                record.done = max(done, record.done or 0)

    def save(self, number: int, value: int) -> None:
        if self.calls:
            call = self._call(number)
            record = self.records[call.id]
            assert self._state(call).save(json.dumps(value).encode()) == record.writes(call.token)
            if record.writes(call.token):
                record.checkpoint = json.dumps(value)

    def cancel(self, task_id: str) -> None:
        ask_to_stop(self.store, task_id)
        self.records[task_id].asked_to_stop = True

    def renew(self, number: int) -> None:
        if self.calls:
            call = self._call(number)
            record = self.records[call.id]
            holds = record.token == call.token and record.until != 0
            answer = self.store.run(RENEW, [self.store.key("task", call.id)], [LEASE_MS, KEEP_MS, call.token])
            assert answer == [int(holds)]
            if holds:
                record.until = self.store.now_ms + LEASE_MS

    def release(self, number: int) -> None:
        if self.calls:
            call = self._call(number)
            self.store.run(RELEASE, [self.store.key("task", call.id)], [KEEP_MS, call.token])
            if self.records[call.id].token == call.token:
                self.records[call.id].until = 0

    def flush(self) -> None:
        self.store.client.flushdb()
        self.store.set_clock(self.store.now_ms)
        self.records = {"a": Record(), "b": Record()}

    def check(self) -> None:
        for task_id, record in self.records.items():
            report = read_report(self.store, task_id)
            expected = None if record.done is None else (record.done, record.outcome)
            assert (report and (report.done, report.outcome)) == expected
        for call in self.calls:
            record = self.records[call.id]
            lost = record.token not in (None, call.token)
            assert self._state(call).look() == (record.asked_to_stop, lost)
        assert self.store.without_ttl() == []
        keys = {key.decode() for key in self.store.client.keys("*") if not key.startswith(b"test-clock")}
        assert keys <= {self.store.key("task", task_id) for task_id in self.records}

    def _call(self, number: int) -> Call:
        return self.calls[number % len(self.calls)]

    def _state(self, call: Call) -> TaskState:
        return TaskState(self.store, call.id, call.token)


LOST_STOP = [
    ("admit", "a", False),
    ("save", 0, 1),
    ("settle", 0, Outcome.RETRY),
    ("admit", "a", True),
    ("again", 1, True),
]
"""A delivery that is sent away twice, because the first answer was lost, costs the checkpoint of the one before."""


@pytest.mark.models(
    *(composition._BEGIN, composition._TAKE, composition._ASK, composition._SETTLE),
    *(_PROGRESS, _CHECKPOINT, _CANCEL, RELEASE, RENEW),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, min_size=5, max_size=40))
@example(events=[("cancel", "a"), ("admit", "a", True), ("admit", "a", False)])
@example(events=[*LOST_STOP, ("admit", "a", False)])
@example(events=[("admit", "a", False), ("report", 0, 9), ("settle", 0, Outcome.FAILURE), ("admit", "a", False)])
def test_record_of_a_task_agrees_with_the_model(clocked: ClockedStore, events: list[tuple[Any, ...]]) -> None:
    """A wish to stop and a checkpoint outlive whatever sends the task away; a replay after the end begins anew."""
    play(Stage(clocked), clocked, events)


def test_end_is_shown_for_a_day_also_if_the_message_comes_again(clocked: ClockedStore) -> None:
    stage = Stage(clocked)
    stage.admit("a", stop=False)
    stage.report(0, 9)
    stage.settle(0, Outcome.SUCCESS)
    key = clocked.key("task", "a")
    assert 0 < clocked.client.pttl(key) <= SHOW_MS
    stage.admit("a", stop=True)
    assert 0 < clocked.client.pttl(key) <= SHOW_MS
    stage.check()
