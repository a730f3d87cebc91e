"""The lease of messages against a model: workers that die, wake up late, have wrong clocks, and look at the same time.

The scripts are the real ones on a real server, beside kombu's own commands; only the scripts' clock is the test's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.held import Held
from celery_patterns.agent import lease
from celery_patterns.agent.lease import GIVE_BACK_SCRIPT, LOOK_SCRIPT, RENEW_SCRIPT
from servers import RedisServer

pytestmark = pytest.mark.every_redis

LEASE_SECONDS = 10.0
WORKERS = 3
CLOCK = "redis.call('MGET', 'test-clock-s', 'test-clock-us')"
PREFIX = "shop:"


@pytest.fixture
def held(redis: RedisServer, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    for name in ("RENEW_SCRIPT", "LOOK_SCRIPT", "GIVE_BACK_SCRIPT"):
        script = getattr(lease, name)
        assert "redis.call('TIME')" in script
        monkeypatch.setattr(lease, name, script.replace("redis.call('TIME')", CLOCK))
    yield (held := Held(redis, stack, PREFIX, workers=WORKERS))
    held.client.flushdb()


@dataclass
class Model:
    """Where messages are, and since when they were noted and suspected."""

    waiting: list[str] = field(default_factory=list)
    """The next one is the last."""
    held: dict[str, str] = field(default_factory=dict)
    """Tag to message."""
    noted: dict[str, float] = field(default_factory=dict)
    suspected: dict[tuple[str, float], float] = field(default_factory=dict)
    """A message as it was noted, to the time at which it was seen."""

    def look(self, now: float) -> set[str]:
        self.suspected = {
            suspect: since for suspect, since in self.suspected.items() if now - since < lease.SUSPECT_SECONDS
        }
        over = set()
        for tag, noted in list(self.noted.items()):
            if noted > now - LEASE_SECONDS:
                continue
            if tag not in self.held:
                del self.noted[tag]
            elif now - self.suspected.setdefault((tag, noted), now) >= lease.CONFIRM_SECONDS:
                over.add(tag)
        self.noted = {tag: now if noted >= now + 1 else noted for tag, noted in self.noted.items()}
        return over

    def give_back(self, tag: str, now: float) -> bool:
        if tag not in self.held or tag not in self.noted or self.noted[tag] > now - LEASE_SECONDS:
            return False
        del self.noted[tag]
        self.waiting.append(self.held.pop(tag))
        return True


worker = st.integers(0, WORKERS - 1)
which = st.integers(0, 5)
Event = st.one_of(
    st.tuples(st.just("publish")),
    st.tuples(st.just("take"), worker, st.sampled_from([0, 0, 0, 3600, -3600])),
    st.tuples(st.just("take"), worker, st.just(0)),
    st.tuples(st.just("end"), which, st.sampled_from(["ack", "requeue"])),
    st.tuples(st.just("renew"), st.lists(which, min_size=1, max_size=3)),
    st.tuples(st.just("look"), worker),
    st.tuples(st.just("look"), worker),
    st.tuples(st.just("give back"), worker, which),
    st.tuples(st.just("give back"), worker, which),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0, LEASE_SECONDS])),
    st.tuples(st.just("flush")),
)


class Stage:
    """Drives workers and model side by side; keeps an account of its own of what was seen of each message."""

    def __init__(self, held: Held) -> None:
        self.h = held
        self.now = 1_800_000_000.0
        self.deliveries: list[tuple[int, str]] = []
        """Worker and tag; a message keeps its tag."""
        self.over: list[str] = []
        self.published = 0
        self.flush()

    def do(self, name: str, *arguments: Any) -> None:
        getattr(self, name.replace(" ", "_"))(*arguments)

    def flush(self) -> None:
        self.h.client.flushdb()
        for queue in self.h.queues:
            queue.declare()
        self.model = Model()
        self.open: set[str] = set()
        self.touched: dict[str, float] = {}
        """When its holder last said that it lives, by the server's clock."""
        self.taken: dict[str, float] = {}
        self.wait(0)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.h.client.mset({"test-clock-s": int(self.now), "test-clock-us": int(self.now % 1 * 1_000_000)})

    def publish(self) -> None:
        message = f"m{self.published}"
        self.published += 1
        self.h.publish(message)
        self.model.waiting.insert(0, message)
        self.open.add(message)

    def take(self, worker: int, behind: float) -> None:
        message = self.h.queues[worker].get()
        assert (message is not None) == bool(self.model.waiting)
        if message is None:
            return
        name, tag = self.model.waiting.pop(), str(message.delivery_tag)
        assert message.headers["id"] == name
        self.model.held[tag] = name
        self.model.noted[tag] = self.now - behind
        self.h.client.zadd(self.h.index, {tag: self.now - behind})  # kombu has noted it with this machine's clock
        self.deliveries.append((worker, tag))
        self.taken[tag] = self.now
        self.touched.pop(tag, None)

    def end(self, number: int, how: str) -> None:
        """Any delivery ends, also one whose worker was thought dead, and also twice."""
        if not self.deliveries:
            return
        worker, tag = self.deliveries[number % len(self.deliveries)]
        qos = self.h.queues[worker].channel.qos
        if how == "ack":
            qos.ack(tag)
            self.open.discard(self.model.held.pop(tag, ""))
            self.model.noted.pop(tag, None)
        else:
            qos.reject(tag, requeue=True)
            if tag in self.model.held:  # kombu puts it behind all others
                self.model.waiting.insert(0, self.model.held.pop(tag))
            self.model.noted.pop(tag, None)

    def renew(self, numbers: list[int]) -> None:
        """Its holder lives; also one that has stood still, and does not know yet that others have taken over."""
        if not self.deliveries:
            return
        pairs = [self.deliveries[number % len(self.deliveries)] for number in numbers]
        tags = [tag for _, tag in pairs]
        self.h.brokers[pairs[0][0]].renew(tags)
        for tag in tags:
            if tag in self.model.noted:
                self.model.noted[tag] = self.now
                self.touched[tag] = self.now

    def look(self, worker: int) -> None:
        found = self.h.look(worker)
        assert set(found) == self.model.look(self.now)
        self.over += found

    def give_back(self, worker: int, number: int) -> None:
        """Of what was found over some time ago: it may have been renewed, ended, or given back by another."""
        if not self.over:
            return
        tag = self.over[number % len(self.over)]
        name = self.model.held.get(tag)
        text = self.h.brokers[worker].give_back(tag, LEASE_SECONDS)
        done = self.model.give_back(tag, self.now)
        assert text == (f"t[{name}]" if done else "")
        if done:
            assert self.now - self.touched.get(tag, 0) >= LEASE_SECONDS, "its holder has renewed it"
            assert self.now - self.taken[tag] >= lease.CONFIRM_SECONDS, "it was taken a moment ago"

    def check(self) -> None:
        keys = self.h.keys
        raw = self.h.client.hkeys(PREFIX + keys.held)
        assert {tag.decode() for tag in raw} == set(self.model.held)
        assert self.h.waiting() == self.model.waiting
        assert sorted([*self.model.waiting, *self.model.held.values()]) == sorted(self.open), "each is in one place"
        noted = {tag.decode(): at for tag, at in self.h.client.zrange(self.h.index, 0, -1, withscores=True)}
        assert noted == pytest.approx(self.model.noted, abs=0.01)
        suspects = f"{self.h.index}:suspects"
        assert 0 < self.h.client.ttl(suspects) <= 60 or not self.h.client.exists(suspects)


STALE = [
    ("publish",),
    ("take", 0, 3600),
    ("look", 0),
    ("wait", 2.0),
    ("end", 0, "requeue"),
    ("take", 1, 3600),
    ("look", 1),
    ("give back", 1, 0),
]
"""Suspected, given back by its worker, and taken again by one whose clock is wrong."""


@pytest.mark.models(GIVE_BACK_SCRIPT, LOOK_SCRIPT, RENEW_SCRIPT)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, min_size=5, max_size=40))
@example(events=STALE)
def test_each_message_is_in_one_place_and_none_is_taken_from_the_living(
    held: Held, events: list[tuple[Any, ...]]
) -> None:
    """And when all workers are gone, every message that was not acknowledged waits again."""
    stage = Stage(held)
    for name, *arguments in events:
        stage.do(name, *arguments)
        stage.check()
    for _ in range(4):  # a time in the future is corrected first
        stage.wait(LEASE_SECONDS)
        stage.look(0)
        for number in range(len(stage.over)):
            stage.give_back(number % WORKERS, number)
    assert sorted(held.waiting()) == sorted(stage.open)
    stage.check()


def test_suspicions_that_lead_to_nothing_are_forgotten(held: Held) -> None:
    """Acknowledged by kombu, which does not know of them."""
    stage = Stage(held)
    for number in range(20):
        stage.publish()
        stage.take(0, 3600)
        stage.look(1)
        stage.end(number, "ack")
        stage.wait(20.0)
    stage.look(1)
    assert held.client.zcard(f"{held.index}:suspects") <= 4
