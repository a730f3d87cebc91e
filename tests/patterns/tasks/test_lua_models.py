"""The policies' Lua against plain models: deliveries repeated, reordered, late, lost, and a flush at any moment.

The scripts are the real ones on a real server; only their clock is the test's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_patterns.store import StoreSettings
from celery_patterns.store.leases import FENCES, KEEP_MS, RELEASE, RENEW
from celery_patterns.tasks import (
    Idempotent,
    PatternTask,
    RateLimit,
    Singleton,
    composition,
    idempotent,
    install,
    rate_limit,
    singleton,
)
from celery_patterns.tasks.composition import Taken
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Call, Fragment, Outcome, Publication, Step
from celery_patterns.tasks.singleton import QUEUE, REQUEUE, UNQUEUE
from patterns.resilience.clocked import ClockedStore, play
from servers import RedisServer

pytestmark = pytest.mark.every_redis

LEASE_MS = 3_000
MINUTE = 60_000


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    with Celery("models", set_as_current=False) as app:
        yield install(app)


@pytest.fixture
def clocked(redis: RedisServer, app: Celery) -> Iterator[ClockedStore]:
    store = ClockedStore(app, StoreSettings(url=redis.url(5)))
    store.client.flushdb()
    store.set_clock(1_800_000_000_000)
    patterns_of(app)._store = store
    yield store
    store.close()


def echo(key: str, lock: str = "") -> str:
    return key + lock


def _call(task: Any, task_id: str, token: str, key: str, lock: str = "") -> Call:
    return Call(task=task, id=task_id, token=token, arguments={"key": key, "lock": lock})


# ------------------------------------------------------------------------------------------- claims and locks together


@dataclass(frozen=True)
class Mode:
    """A kind of singleton, by what it promises."""

    scope: Literal["queued", "running", "both"]
    on_duplicate: Literal["drop", "return_existing", "coalesce"]

    @property
    def locks(self) -> bool:
        return self.scope != "queued"

    @property
    def one_may_wait(self) -> bool:
        return self.on_duplicate == "coalesce"


MODES = (
    Mode("both", "return_existing"),
    Mode("both", "coalesce"),
    Mode("queued", "drop"),
)


@dataclass
class Model:
    """What the documentation says: a lease for each task, a record and a lock for each key."""

    mode: Mode
    tasks: dict[str, tuple[str, int]] = field(default_factory=dict)
    records: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """key -> (running | done, holder, result)."""
    locks: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    deliveries: dict[str, int] = field(default_factory=dict)

    def alive(self, holder: str | None, now: int) -> bool:
        if holder is None:
            return False
        task_id, _, token = holder.rpartition("|")
        held = self.tasks.get(task_id)
        return held is not None and held[0] == token and held[1] > now

    def admit(self, call: Call, now: int) -> tuple[Any, ...]:
        key, name = call.arguments["key"], call.arguments["lock"]
        held = self.tasks.get(call.id)
        if held is not None and held[0] != call.token and held[1] > now:
            return ("running", held[1] - now)
        # A delivery that asks again, since its first answer was lost, is counted already.
        counted = held is not None and held[0] == call.token and held[1] != 0
        if not counted:
            self.deliveries[call.id] = self.deliveries.get(call.id, 0) + 1
        self.tasks[call.id] = (call.token, now + LEASE_MS)
        record = self.records.get(key)
        if record is not None and record[0] == "done":
            self._stop(call)
            return ("stopped", 1, record[2])
        if record is not None and record[1] != call.holder and self.alive(record[1], now):
            self._stop(call)
            return ("stopped", 2, record[1])
        lock = self.locks.get(name)
        if self.mode.locks and lock is not None and lock != call.holder and self.alive(lock, now):
            self.records.pop(key, None)
            self._stop(call)
            if self.mode.one_may_wait and self.waiting.get(name, call.id) == call.id:
                self.waiting[name] = call.id
                return ("stopped", 2, lock)
            return ("stopped", 1, lock)
        self.records[key] = ("running", call.holder, "")
        if self.mode.locks:
            self.locks[name] = call.holder
        if self.waiting.get(name) == call.id:
            del self.waiting[name]
        return ("admitted", self.deliveries[call.id])

    def _stop(self, call: Call) -> None:
        self.tasks[call.id] = (call.token, 0)
        self.deliveries[call.id] -= 1
        if self.deliveries[call.id] <= 0:
            del self.tasks[call.id], self.deliveries[call.id]

    def settle(self, call: Call, outcome: Outcome, result: str) -> tuple[bool, int]:
        key, name = call.arguments["key"], call.arguments["lock"]
        record = self.records.get(key)
        other = record is not None and record[1] != call.holder
        if not other:
            if outcome is Outcome.SUCCESS:
                self.records[key] = ("done", call.holder, result)
            elif record is None or record[0] != "done":
                self.records.pop(key, None)
        if self.locks.get(name) == call.holder:
            del self.locks[name]
        mine = self.tasks.get(call.id, ("", 0))[0] == call.token
        if mine and outcome in (Outcome.RETRY, Outcome.DEFERRED):
            self.tasks[call.id] = (call.token, 0)
        elif mine:
            del self.tasks[call.id]
            self.deliveries.pop(call.id, None)
        return mine, int(other)

    def renew(self, call: Call, now: int) -> int:
        held = self.tasks.get(call.id)
        if held is None or held[0] != call.token or held[1] == 0:
            return 0
        self.tasks[call.id] = (call.token, now + LEASE_MS)
        return 1

    def release(self, call: Call) -> None:
        if self.tasks.get(call.id, ("", 0))[0] == call.token:
            self.tasks[call.id] = (call.token, 0)

    def queue(self, task_id: str, key: str, now: int) -> str | None:
        if self.waiting.get(key, task_id) != task_id:
            return self.waiting[key]
        lock = self.locks.get(key)
        if not self.mode.one_may_wait and lock is not None and self.alive(lock, now):
            return lock.rpartition("|")[0]
        self.waiting[key] = task_id
        return None


which = st.integers(0, 5)
Event = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from("abc"), st.sampled_from("kl"), st.sampled_from("xy")),
    st.tuples(st.just("admit"), st.sampled_from("abc"), st.sampled_from("kl"), st.sampled_from("xy")),
    st.tuples(st.just("settle"), which, st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY])),
    st.tuples(st.just("settle"), which, st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY])),
    st.tuples(st.just("again"), which),
    st.tuples(st.just("renew"), which),
    st.tuples(st.just("release"), which),
    st.tuples(st.just("publish"), st.sampled_from("abc"), st.sampled_from("xy")),
    st.tuples(st.just("unpublish"), st.sampled_from("abc"), st.sampled_from("xy")),
    st.tuples(st.just("come_again"), st.sampled_from("abc"), st.sampled_from("xy")),
    st.tuples(st.just("pass"), st.sampled_from([1, 1_000, LEASE_MS, MINUTE])),
    st.tuples(st.just("set_back"), st.sampled_from([500, MINUTE])),
    st.tuples(st.just("flush")),
)


class Stage:
    """Drives the scripts and the model side by side."""

    def __init__(self, store: ClockedStore, app: Celery, mode: Mode) -> None:
        store.client.flushdb()
        store.set_clock(1_800_000_000_000)
        self.store = store
        self.mode = mode
        self.model = Model(mode)
        self.idempotent = Idempotent(key="{key}", ttl="10d")
        self.singleton = Singleton(key="{lock}", scope=mode.scope, on_duplicate=mode.on_duplicate)
        name = f"models.{mode.scope}.{mode.on_duplicate}"
        self.task = app.tasks.get(name) or app.task(
            base=PatternTask, name=name, policies=[self.idempotent, self.singleton]
        )(echo)
        self.calls: list[Call] = []
        self.fences: dict[str, tuple[str, int]] = {}
        self.committed: dict[str, str] = {}
        self.latest = 0

    def admit(self, task_id: str, key: str, lock: str) -> None:
        self._admit(_call(self.task, task_id, f"t{len(self.calls)}", key, lock))

    def again(self, number: int) -> None:
        """The same delivery asks once more: its first answer was lost on the way."""
        if self.calls:
            self._admit(self.calls[number % len(self.calls)])

    def _admit(self, call: Call) -> None:
        self.store.advance(1)  # no two scripts run in one microsecond of a real server
        self.calls.append(call)
        steps = [self.idempotent.admission(call), self.singleton.admission(call)]
        answer = composition.admit(self.store, call, steps, LEASE_MS / 1000)
        expected = self.model.admit(call, self.store.now_ms)
        match answer.taken:
            case Taken.RUNNING:
                assert ("running", answer.left * 1000) == expected
            case Taken.STOPPED:
                last = answer.replies[-1]
                assert ("stopped", last[0], _decoded(last)) == expected
            case Taken.ADMITTED:
                assert ("admitted", answer.deliveries) == expected
                self._fences_grow(call, "key", int(answer.replies[0][1]))
                if self.mode.locks:
                    self._fences_grow(call, "lock", int(answer.replies[1][1]))

    def _fences_grow(self, call: Call, argument: str, fence: int) -> None:
        name = argument + call.arguments[argument]
        holder, before = self.fences.get(name, (call.holder, fence))
        assert fence > before or (fence == before and holder == call.holder)
        self.fences[name] = (call.holder, fence)

    def settle(self, number: int, outcome: Outcome) -> None:
        """Any execution ends, also one that was thought dead, and also twice."""
        if not self.calls:
            return
        call = self.calls[number % len(self.calls)]
        key = call.arguments["key"]
        result = f"{call.holder} done"
        steps = [
            self.idempotent.settlement(call, outcome, result, 0.0),
            self.singleton.settlement(call, outcome, 0, 0.0),
        ]
        mine, replies = composition.settle(self.store, call, [step for step in steps if step], outcome)
        assert (mine, replies[0]) == self.model.settle(call, outcome, result)
        if replies[0] == 0 and outcome is Outcome.SUCCESS:
            assert self.committed.setdefault(key, call.holder) == call.holder, "two executions committed"

    def renew(self, number: int) -> None:
        if self.calls:
            call = self.calls[number % len(self.calls)]
            answer = self.store.run(RENEW, [self.store.key("task", call.id)], [LEASE_MS, KEEP_MS, call.token])
            assert answer == [self.model.renew(call, self.store.now_ms)]

    def release(self, number: int) -> None:
        if self.calls:
            call = self.calls[number % len(self.calls)]
            self.store.run(RELEASE, [self.store.key("task", call.id)], [KEEP_MS, call.token])
            self.model.release(call)

    def publish(self, task_id: str, lock: str) -> None:
        other = self.singleton._queue(Publication(self.task, task_id, ("", lock), {}))
        assert other == self.model.queue(task_id, lock, self.store.now_ms)

    def come_again(self, task_id: str, lock: str) -> None:
        """A call that failed or was deferred is published again."""
        publication = Publication(self.task, task_id, ("", lock), {}, retrying=True)
        assert self.singleton.publish(publication) is None
        self.model.waiting.setdefault(lock, task_id)

    def set_back(self, ms: int) -> None:
        """A replica takes over whose clock is behind."""
        self.latest = max(self.latest, self.store.now_ms)
        self.store.advance(-ms)
        if not self.store.client.exists(self.store.key(*FENCES)):
            self.fences.clear()  # a flush has forgotten what was, and the clock does not say it either

    def unpublish(self, task_id: str, lock: str) -> None:
        self.singleton.unpublished(Publication(self.task, task_id, ("", lock), {}))
        if self.model.waiting.get(lock) == task_id:
            del self.model.waiting[lock]

    def flush(self) -> None:
        self.store.client.flushdb()
        self.latest = max(self.latest, self.store.now_ms)
        self.store.set_clock(self.latest + 1)  # who forgets all and whose clock is behind has no way to know
        self.model = Model(self.mode)
        self.committed.clear()

    def check(self) -> None:
        assert self.store.without_ttl() == []
        ours = (b"{celery-patterns}:", b"test-clock")
        assert [key for key in self.store.client.keys("*") if not key.startswith(ours)] == []


def _decoded(reply: list[Any]) -> str:
    text: str = reply[1].decode()
    return json.loads(json.loads(text)[2]) if text.startswith("[") else text


@pytest.mark.models(idempotent.FRAGMENT, singleton.FRAGMENT, QUEUE, REQUEUE, UNQUEUE, RELEASE, RENEW)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mode=st.sampled_from(MODES), events=st.lists(Event, min_size=5, max_size=40))
def test_claims_locks_and_leases_agree_with_the_model(
    clocked: ClockedStore, app: Celery, mode: Mode, events: list[tuple[Any, ...]]
) -> None:
    """For any order of events: the model's answers, growing fences, one commit for each key, and a TTL on every key."""
    play(Stage(clocked, app, mode), clocked, events)


# ------------------------------------------------------------------------------------------------------------ the rate

GATE = Fragment("gate", admit="if A[1] == 'stop' then return {1} end\nreturn {0}", settle="return 0")
"""A later policy that stops where the test says so."""


@pytest.mark.models(rate_limit.FRAGMENT)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.integers(1, 50),
    burst=st.integers(1, 10),
    arrivals=st.lists(
        st.tuples(st.sampled_from([0, 0, 1, 7, 50, 400, 3_000]), st.sampled_from(["go", "go", "stop", "flush"])),
        min_size=5,
        max_size=80,
    ),
)
def test_in_no_window_more_runs_than_rate_and_burst(
    clocked: ClockedStore, app: Celery, rate: int, burst: int, arrivals: list[tuple[int, str]]
) -> None:
    """Whatever the arrivals; a turn that a later policy did not let be used is given back, and no more than that."""
    clocked.client.flushdb()
    clocked.set_clock(1_800_000_000_000)
    policy = RateLimit(f"{rate}/s", key="{key}", burst=burst)
    task = app.tasks.get("models.rate") or app.task(base=PatternTask, name="models.rate", policies=[])(echo)
    runs: list[float] = []
    interval, due = 1e6 / rate, 0.0
    for number, (pause, what) in enumerate(arrivals):
        clocked.advance(pause)
        if what == "flush":  # a clean start, with a new count
            clocked.client.flushdb()
            clocked.set_clock(clocked.now_ms)
            runs, due = [], 0.0
            continue
        call = _call(task, f"r{number}", "t", "k")
        steps = [policy.admission(call), Step(GATE, (), (what,))]
        answer = composition.admit(clocked, call, steps, 1.0)
        verdict, wait_us = answer.replies[0][0], int(answer.replies[0][1])
        turn = max(due, clocked.now_ms * 1000)
        assert wait_us == pytest.approx(max(0.0, turn - interval * (burst - 1) - clocked.now_ms * 1000), abs=100)
        if verdict == 0 and what == "go":
            due = turn + interval
            runs.append(clocked.now_ms + wait_us / 1000)
        assert verdict == 0 or wait_us > 250_000
    for first, begin in enumerate(runs):
        for last in range(first, len(runs)):
            window = runs[last] - begin
            assert last - first + 1 <= rate * window / 1000 + burst + 0.01 * rate
    assert clocked.without_ttl() == []
