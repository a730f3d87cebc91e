"""What the policies of one task take together: whoever is sent away holds nothing, whoever holds may run.

Bulkhead, circuit and rate limit beside idempotency and a singleton, composed as a task composes them; the scripts are
the real ones on a real server, only their clock is the test's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_patterns.resilience import bulkhead_policy, circuit_policy
from celery_patterns.resilience.bulkhead import Bulkhead, BulkheadFull
from celery_patterns.resilience.bulkhead_policy import Limit
from celery_patterns.resilience.circuit import CircuitBreaker
from celery_patterns.resilience.circuit_policy import Circuit
from celery_patterns.store import StoreSettings
from celery_patterns.store.leases import KEEP_MS, RELEASE, RENEW
from celery_patterns.tasks import Idempotent, PatternTask, RateLimit, Singleton, composition, install
from celery_patterns.tasks.composition import Taken
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Call, Outcome, Step
from patterns.resilience.clocked import ClockedStore, play
from servers import RedisServer

pytestmark = pytest.mark.every_redis

LEASE_MS = 3_000
PLACES = 2


@pytest.fixture
def clocked(redis: RedisServer) -> Iterator[ClockedStore]:
    with Celery("composed", set_as_current=False) as app:
        store = ClockedStore(install(app), StoreSettings(url=redis.url(8), lease_seconds=LEASE_MS / 1000))
        patterns_of(app)._store = store
        yield store
        store.close()


def work(key: str, lock: str) -> str:
    return key + lock


@dataclass
class Stage:
    """Drives the composed scripts, and keeps an account of who was told what."""

    store: ClockedStore
    calls: list[Call] = field(default_factory=list)
    runs: dict[str, tuple[Call, int]] = field(default_factory=dict)
    """Holder to its call and when its lease ends, of those who were admitted."""
    settled: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        app: Any = self.store._app
        self.task = app.tasks.get("work") or app.task(base=PatternTask, name="work", shared=False)(work)
        self.policies = [
            Idempotent(key="{key}"),
            Singleton(key="{lock}"),
            Limit("places", PLACES),
            Circuit("api", min_calls=2, open_for="5s", trial_lease="2s"),
            RateLimit("2/s", key="api"),
        ]
        self.breaker = CircuitBreaker(self.store, "api", self.policies[3].settings)  # type: ignore[attr-defined]
        self.flush()

    def flush(self) -> None:
        self.store.client.flushdb()
        self.store.set_clock(max(self.store.now_ms, 1_800_000_000_000))
        self.runs.clear()

    def admit(self, task_id: str, key: str, lock: str) -> None:
        self.store.advance(1)
        arguments = {"key": key, "lock": lock}
        self._admit(Call(task=self.task, id=task_id, token=f"t{len(self.calls)}", arguments=arguments))

    def again(self, number: int) -> None:
        """The same delivery asks once more, its first answer being lost."""
        if self.calls and self._call(number).holder not in self.settled:
            self._admit(self._call(number))

    def _admit(self, call: Call) -> None:
        self.calls.append(call)
        steps = [policy.admission(call) for policy in self.policies]
        answer = composition.admit(self.store, call, [step for step in steps if step], LEASE_MS / 1000)
        if answer.taken is Taken.ADMITTED:
            self.runs[call.holder] = (call, self.store.now_ms + LEASE_MS)
            for policy, reply in zip(self.policies, answer.replies, strict=True):
                policy.admitted(call, reply)
        elif answer.taken is Taken.STOPPED:
            self.runs.pop(call.holder, None)
            assert self._traces(call) == [], "sent away, and it holds something"
        else:
            assert self._traces(call) == [] or call.holder in self.runs

    def settle(self, number: int, outcome: Outcome) -> None:
        if not self.calls:
            return
        call = self._call(number)
        if call.holder not in self.runs:
            return
        error = ConnectionError("down") if outcome is not Outcome.SUCCESS else "done"
        steps = [policy.settlement(call, outcome, error, 0.1) for policy in self.policies]
        composition.settle(self.store, call, [step for step in steps if isinstance(step, Step)], outcome)
        if outcome is not Outcome.SUCCESS:
            assert self._traces(call) == [], "it ended, and it holds something"
        self.runs.pop(call.holder)
        self.settled.add(call.holder)

    def renew(self, number: int) -> None:
        """In time. One that stood still for longer goes on beside those who took its place: nothing can end it."""
        if not self.calls:
            return
        call = self._call(number)
        _, until = self.runs.get(call.holder, (call, None))
        if until is not None and until <= self.store.now_ms:
            return
        (renewed,) = self.store.run(RENEW, [self.store.key("task", call.id)], [LEASE_MS, KEEP_MS, call.token])
        assert renewed == (until is not None)
        if renewed:
            self.runs[call.holder] = (call, self.store.now_ms + LEASE_MS)

    def release(self, number: int) -> None:
        """Its process was killed, and the main process says so."""
        if self.calls:
            call = self._call(number)
            self.store.run(RELEASE, [self.store.key("task", call.id)], [KEEP_MS, call.token])
            self.runs.pop(call.holder, None)

    def open(self) -> None:
        self.breaker.force_open(5.0)

    def check(self) -> None:
        living = [call for call, until in self.runs.values() if until > self.store.now_ms]
        assert len(living) <= PLACES
        assert Bulkhead(self.store, "places", PLACES).taken() == len(living), "of those that live, no more and no less"
        for what in ("key", "lock"):
            assert len({call.arguments[what] for call in living}) == len(living), f"two run with one {what}"
        assert self.store.without_ttl() == []

    def _call(self, number: int) -> Call:
        return self.calls[number % len(self.calls)]

    def _traces(self, call: Call) -> list[bytes]:
        """Return the keys, but for the task's own record, that name this execution."""
        client: Any = self.store.client
        found = []
        for key in client.keys("{*"):
            kind = client.type(key)
            if kind == b"hash" and not key.startswith(self.store.key("task", "").encode()):
                values = client.hvals(key)
            elif kind == b"zset":
                values = client.zrange(key, 0, -1)
            else:
                continue
            found += [key] if call.holder.encode() in values else []
        return found


which = st.integers(0, 7)
admits = st.tuples(st.just("admit"), st.sampled_from("abcd"), st.sampled_from("klmn"), st.sampled_from("wxyz"))
Event = st.one_of(
    admits,
    admits,
    admits,
    st.tuples(st.just("again"), which),
    st.tuples(st.just("settle"), which, st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY])),
    st.tuples(st.just("settle"), which, st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY])),
    st.tuples(st.just("renew"), which),
    st.tuples(st.just("release"), which),
    st.tuples(st.just("open")),
    st.tuples(st.just("pass"), st.sampled_from([100, 1_000, LEASE_MS, 6_000])),
    st.tuples(st.just("pass"), st.sampled_from([500, 1_000])),
    st.tuples(st.just("flush")),
)


@pytest.mark.models(bulkhead_policy.FRAGMENT, circuit_policy.FRAGMENT, RELEASE, RENEW)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, min_size=5, max_size=40))
def test_who_is_sent_away_or_ends_holds_nothing(clocked: ClockedStore, events: list[tuple[Any, ...]]) -> None:
    """And at last, when all leases are over, others may run again: nothing was leaked."""
    stage = Stage(clocked)
    play(stage, clocked, events)
    for number in range(PLACES):
        clocked.advance(10_000)
        stage.breaker.reset()
        stage.admit(f"last{number}", f"last{number}", f"last{number}")
        assert f"last{number}|" in "".join(stage.runs)
        stage.settle(len(stage.calls) - 1, Outcome.RETRY)


def test_place_of_a_living_task_counts_outside_of_tasks_too(clocked: ClockedStore) -> None:
    """A Limit and a Bulkhead of one name are one bulkhead, also after the task's first lease."""
    stage = Stage(clocked)
    stage.admit("a", "k", "w")
    outside = Bulkhead(clocked, "places", 1)
    for _ in range(3):
        clocked.advance(LEASE_MS - 1)
        stage.renew(0)
    assert outside.taken() == 1
    with pytest.raises(BulkheadFull):
        outside.enter()
    clocked.advance(LEASE_MS)
    assert outside.taken() == 0
    outside.leave(outside.enter())


def test_what_a_killed_process_held_is_free_when_its_worker_says_so(clocked: ClockedStore) -> None:
    """The only place and the circuit's one trial, long before the lease of either is over."""
    stage = Stage(clocked)
    stage.breaker.force_open(1.0)
    clocked.advance(1_001)
    stage.admit("a", "k", "w")
    stage.admit("b", "l", "x")
    assert (list(stage.runs), stage.breaker.state().trial) == (["a|t0"], "a|t0")
    stage.release(0)
    clocked.advance(600)
    stage.admit("b", "l", "x")
    assert (list(stage.runs), stage.breaker.state().trial) == (["b|t2"], "b|t2")
    assert Bulkhead(clocked, "places", PLACES).taken() == 1


def test_places_of_killed_processes_are_taken_by_others(clocked: ClockedStore) -> None:
    stage = Stage(clocked)
    for number in range(3 * PLACES):
        clocked.advance(500)
        stage.admit(f"a{number}", f"k{number}", f"w{number}")
        assert len(stage.runs) == 1
        stage.release(len(stage.calls) - 1)
    assert clocked.client.zcard(clocked.key("bulkhead", "places")) <= PLACES


def test_place_of_a_task_that_lasts_for_days_stays_while_nobody_else_comes(clocked: ClockedStore) -> None:
    """The bulkhead is remembered as long as its tasks are, which nobody but them writes to."""
    stage = Stage(clocked)
    stage.admit("a", "k", "w")
    key = clocked.key("bulkhead", "places")
    assert clocked.client.pttl(key) >= clocked.client.pttl(clocked.key("task", "a")) - 60_000 > 0
