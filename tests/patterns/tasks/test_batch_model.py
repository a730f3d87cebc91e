"""The batches' Lua: whatever dies, comes late or comes twice, no item is lost, held by two, or ended twice.

Nor does one wait for ever: the model knows the broker's messages, and a flush happens only where one was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from celery_patterns.store import StoreSettings
from celery_patterns.store.leases import KEEP_MS, RELEASE
from celery_patterns.tasks import PatternTask, Progress, composition, install
from celery_patterns.tasks.batch_scripts import ADD, FORGET_PROMISE, HOLD, SETTLE, TAKE
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Call
from patterns.resilience.clocked import ClockedStore, play
from servers import RedisServer

pytestmark = pytest.mark.every_redis

MOST, MOST_BYTES = 3, 25
ITEMS = {f"i{number}": "x" * (4 + number) for number in range(8)}


@pytest.fixture
def clocked(redis: RedisServer) -> Iterator[ClockedStore]:
    with Celery("batches", set_as_current=False) as app:
        install(app)
        store = ClockedStore(app, StoreSettings(url=redis.url(6)))
        patterns_of(app)._store = store
        yield store
        store.close()


def echo() -> None:
    """Do nothing."""


Verdict = st.sampled_from(["done", "again", "alone", "back"])
Event = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(sorted(ITEMS))),
    st.tuples(st.just("add"), st.sampled_from(sorted(ITEMS))),
    st.tuples(st.just("take")),
    st.tuples(st.just("take")),
    st.tuples(st.just("add_and_die"), st.sampled_from(sorted(ITEMS))),
    st.tuples(st.just("add_without_broker"), st.sampled_from(sorted(ITEMS))),
    st.tuples(st.just("come_again")),
    st.tuples(st.just("settle"), st.integers(0, 5), st.lists(Verdict, min_size=3)),
    st.tuples(st.just("settle"), st.integers(0, 5), st.just(["done"] * 3)),
    st.tuples(st.just("die"), st.integers(0, 5)),
    st.tuples(st.just("hold_and_die"), st.integers(0, 5)),
    st.tuples(st.just("pass"), st.sampled_from([1, 500, 4_000])),
    st.tuples(st.just("flush")),
)
Loss = st.one_of(Event, st.tuples(st.just("evict"), st.integers(0, 3)))
"""Under memory pressure Redis may drop any one of a batch's keys."""


class Stage:
    """Drives the scripts; knows who holds what."""

    def __init__(self, store: ClockedStore) -> None:
        store.client.flushdb()
        store.set_clock(1_800_000_000_000)
        self.store = store
        app: Any = store._app
        self.task = app.tasks.get("flush") or app.task(base=PatternTask, name="flush", policies=[Progress()])(echo)
        self.keys = [store.key(kind, "b") for kind in ("batch-items", "batch-waiting", "batch-taken", "batch-state")]
        self.batches: list[tuple[Call, list[str]]] = []
        self.begun: dict[str, int] = {}
        """Token to the end of its lease."""
        self.open: set[str] = set()
        self.flushes = 0
        """Messages in the broker that ask for a flush."""
        self.calls: list[str] = []
        """Items whose call is delivered again."""
        self.running: set[int] = set()
        """Numbers of the batches whose flush has neither ended nor died."""
        self.tries: Counter[str] = Counter()

    def add(self, item: str) -> None:
        if self.put(item):
            self.flushes += 1

    def put(self, item: str) -> bool:
        again = self.store.client.hexists(self.keys[0], item)
        verdict = self.store.run(ADD, self.keys, [item, ITEMS[item], MOST, MOST_BYTES, KEEP_MS, 1_000])
        assert verdict or not again, "whoever comes again asks for a flush: the first may have died before it did"
        self.open.add(item)
        return bool(verdict)

    def add_and_die(self, item: str) -> None:
        """Before the flush is asked for."""
        self.put(item)
        self.calls.append(item)

    def add_without_broker(self, item: str) -> None:
        if self.put(item):
            self.store.run(FORGET_PROMISE, self.keys, [])
            self.calls.append(item)

    def come_again(self) -> None:
        if self.calls:
            self.add(self.calls.pop(0))

    def take(self) -> None:
        if not self.flushes:
            return
        self.flushes -= 1
        held = {item for item, holder in self.taken().items() if self.begun[holder] > self.store.now_ms}
        waiting, got = self.take_any()
        assert not held & set(got), "taken from one that lives"
        assert len(got) <= MOST
        assert len(got) == 1 or sum(len(ITEMS[item]) for item in got) <= MOST_BYTES
        assert bool(got) == bool(self.open - held)
        assert waiting == len(self.open - held) - len(got)
        self.flushes += bool(got and waiting)
        number = len(self.batches) - 1
        if got:
            self.running.add(number)
        else:
            self.release(number)

    def take_any(self) -> tuple[int, list[str]]:
        number = len(self.batches)
        call = Call(task=self.task, id=f"flush{number}", token=f"t{number}", arguments={})
        composition.admit(self.store, call, [], 3.0)
        self.begun[call.holder] = self.store.now_ms + 3_000
        arguments: list[Any] = [self.store.key("task", ""), call.holder, MOST, MOST_BYTES, KEEP_MS]
        waiting, _, raw = self.store.run(TAKE, self.keys, arguments)
        got = [task_id.decode() for task_id, _, _ in raw]
        self.tries.update(got)
        self.batches.append((call, got))
        return waiting, got

    def settle(self, number: int, verdicts: list[str]) -> None:
        if not self.batches:
            return
        number %= len(self.batches)
        got = self.batches[number][1]
        ours = self.hold(number)
        told = dict(zip(got, verdicts, strict=False))
        lost, waiting = self.settle_any(number, verdicts)
        assert lost == len([item for item in told if item not in ours])
        done = {item for item, verdict in told.items() if verdict == "done" and item in ours}
        self.open -= done
        self.tries.update(item for item in ours if told[item] in ("again", "alone"))
        for item in done:
            del self.tries[item]
        self.flushes += bool(waiting)
        self.release(number)

    def settle_any(self, number: int, verdicts: list[str]) -> tuple[int, int]:
        if not self.batches:
            return 0, 0
        call, got = self.batches[number % len(self.batches)]
        arguments: list[Any] = [call.holder, KEEP_MS]
        for item, verdict in zip(got, verdicts, strict=False):
            arguments += (item, verdict)
        lost, waiting = self.store.run(SETTLE, self.keys, arguments)
        return int(lost), int(waiting)

    def release(self, number: int) -> None:
        call, _ = self.batches[number]
        self.store.run(RELEASE, [self.store.key("task", call.id)], [KEEP_MS, call.token])
        self.begun[call.holder] = 0
        self.running.discard(number)

    def die(self, number: int) -> None:
        """Its message is delivered again."""
        if self.batches:
            number %= len(self.batches)
            self.flushes += number in self.running
            self.release(number)

    def hold(self, number: int) -> list[str]:
        """A flush asks before it stores results: what another has taken over is not its own any more."""
        call, got = self.batches[number]
        ours = [item for item in got if self.taken().get(item) == call.holder]
        answer = self.store.run(HOLD, self.keys, [call.holder, *got])
        assert [item.decode() for item in answer] == ours
        self.tries.subtract(ours)
        return ours

    def hold_and_die(self, number: int) -> None:
        """Its function has ended, so this was none of the items' fault."""
        if self.batches and number % len(self.batches) in self.running:
            self.hold(number % len(self.batches))
            self.die(number)

    def hold_any(self, number: int) -> None:
        if self.batches:
            call, got = self.batches[number % len(self.batches)]
            self.store.run(HOLD, self.keys, [call.holder, *got])

    def flush(self) -> None:
        self.store.client.flushdb()
        self.store.set_clock(self.store.now_ms)
        self.open.clear()
        self.tries.clear()

    def evict(self, number: int) -> None:
        self.store.client.delete(self.keys[number])

    def bytes_waiting(self) -> int:
        return int(self.store.client.hget(self.keys[3], "bytes") or 0)

    def taken(self) -> dict[str, str]:
        raw: dict[bytes, bytes] = self.store.client.hgetall(self.keys[2])
        return {item.decode(): holder.decode() for item, holder in raw.items()}

    def check(self) -> None:
        waiting = {item.decode() for item in self.store.client.zrange(self.keys[1], 0, -1)}
        assert waiting | set(self.taken()) == self.open
        assert not waiting & set(self.taken())
        assert self.bytes_waiting() == sum(len(ITEMS[item]) for item in waiting)
        assert not waiting or self.flushes or self.calls or self.running, "they wait, and nobody will ask for them"
        kept = {item: int(self.store.client.hget(self.keys[3], f"tries:{item}") or 0) for item in self.open}
        assert kept == {item: self.tries[item] for item in self.open}
        self.check_ttl()

    def check_ttl(self) -> None:
        """All that can be said while keys are lost."""
        assert self.store.without_ttl() == []


@pytest.mark.models(ADD, FORGET_PROMISE, HOLD, RELEASE, SETTLE, TAKE)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, min_size=5, max_size=40))
def test_no_item_is_lost_held_by_two_or_ended_twice(clocked: ClockedStore, events: list[tuple[Any, ...]]) -> None:
    stage = Stage(clocked)
    play(stage, clocked, events)
    clocked.advance(10_000)
    while stage.calls:
        stage.come_again()
    for number in sorted(stage.running):
        stage.settle(number, ["done"] * MOST)
    while stage.flushes:
        stage.take()
        stage.settle(len(stage.batches) - 1, ["done"] * MOST)
    assert stage.open == set(), "no call more, and all that came is worked off"
    stage.check()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Loss, min_size=5, max_size=40))
@example(events=[("add", "i0"), ("take",), ("evict", 0), ("settle", 0, ["again"])])
@example(events=[*(("add", f"i{number}") for number in range(4)), ("evict", 0), ("add", "i5")])
@example(events=[("add", "i0"), ("add", "i1"), ("evict", 1)])
@example(events=[("add", "i0"), ("take",), ("evict", 3), ("add", "i0")])
def test_batch_that_lost_one_of_its_keys_goes_on(clocked: ClockedStore, events: list[tuple[Any, ...]]) -> None:
    """No script fails, no key stays for ever, and once what was left is worked off, what comes is counted as ever."""
    stage = Stage(clocked)
    # Who holds what is not known any more.
    renamed = {"take": "take_any", "settle": "settle_any", "hold_and_die": "hold_any"}
    blind = [(renamed.get(name, name), *arguments) for name, *arguments in events]
    play(stage, clocked, blind, check=stage.check_ttl)
    clocked.advance(10_000)
    left = {key.decode() for key in stage.store.client.hkeys(stage.keys[0])}
    taken: set[str] = set()
    while got := stage.take_any()[1]:
        taken |= set(got)
        stage.settle_any(len(stage.batches) - 1, ["done"] * MOST)
    assert (taken, stage.bytes_waiting()) == (left, 0), "a call is known and never worked off"
    stage.open.clear()
    stage.tries.clear()
    stage.add("i1")
    stage.check()
    stage.take()
    stage.check()
