"""The claims' Lua against a model: deliveries that come twice, late and out of order, holders that were thought dead.

The operator's script, which abandons what nobody runs, is among them. They are the real ones on a real server; only
their clock is the test's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from celery_operator.adapters.result_backend import ABANDON_SCRIPT, MOST_RETRIES
from celery_patterns import protocol
from celery_patterns.agent import store as claims
from celery_patterns.agent.next_retry import NextRetry
from celery_patterns.agent.store import (
    CLAIM_SCRIPT,
    CONCLUDE_SCRIPT,
    NOTE_RETRY_SCRIPT,
    RECORD_DONE_SCRIPT,
    RELEASE,
    RENEW_SCRIPT,
    ClaimStore,
    Verdict,
)
from servers import RedisServer

pytestmark = pytest.mark.every_redis

LEASE_MS = 3_000
CLOCK = "redis.call('MGET', 'test-clock-s', 'test-clock-us')"
DATABASE = 9


@pytest.fixture
def store(redis: RedisServer, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaimStore]:
    for name in ("CLAIM_SCRIPT", "RENEW_SCRIPT", "CONCLUDE_SCRIPT", "NOTE_RETRY_SCRIPT"):
        script = getattr(claims, name)
        assert "redis.call('TIME')" in script
        monkeypatch.setattr(claims, name, script.replace("redis.call('TIME')", CLOCK))
    app = stack.enter_context(Celery("claims", set_as_current=False, backend=redis.url(DATABASE)))
    store = ClaimStore(app.backend, lease_seconds=LEASE_MS / 1000)
    yield store
    store.close()
    app.backend.client.close()


@dataclass
class Claim:
    """What the documentation says of one attempt's claim."""

    state: str
    token: str = ""
    until: int = 0
    starts: int = 0
    retry_at: int | None = None


@dataclass(frozen=True)
class Asked:
    """One delivery: its attempt and its token."""

    attempt: str
    token: str


@dataclass
class Model:
    """Claims by attempt, and what is stored of each."""

    claims: dict[str, Claim] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    """Statuses of the attempts that have a stored result, final or not."""
    next_abandoned: set[str] = field(default_factory=set)
    """Attempts that ended with a retry by Celery's own means, and whose next try was abandoned."""

    def claim(self, by: Asked, now: int, *, result_seen: bool) -> tuple[Verdict, int, int]:
        claim = self.claims.get(by.attempt)
        if claim is not None and claim.state != protocol.CLAIM_RUNNING:
            return Verdict.ENDED, 0, 0
        another = claim is not None and claim.token != by.token
        if claim is not None and another and claim.until > now:
            return Verdict.HELD, claim.until, claim.until - now
        if not result_seen and by.attempt in self.results:
            return Verdict.RESULT_EXISTS, 0, 0
        starts = (0 if claim is None else claim.starts) + (claim is None or another)
        kept = claim.retry_at if claim is not None and starts == 1 else None
        self.claims[by.attempt] = Claim(protocol.CLAIM_RUNNING, by.token, now + LEASE_MS, starts, kept)
        return Verdict.CLAIMED, starts, 0

    def conclude(self, by: Asked, state: str) -> bool:
        claim = self.claims.get(by.attempt)
        if claim is None or claim.token != by.token:
            return False
        if state == RELEASE:
            claim.until = 0
        else:
            claim.state = state
        return True

    def note_retry(self, by: Asked, due: int) -> bool:
        claim = self.claims.get(by.attempt)
        if claim is None or claim.token != by.token:
            return False
        claim.retry_at = due
        return True

    def renew(self, by: Asked, now: int) -> int:
        claim = self.claims.get(by.attempt)
        if claim is None or claim.state != protocol.CLAIM_RUNNING:
            return 0
        if claim.token != by.token:
            return 2
        if claim.until == 0:
            return 0
        claim.until = now + LEASE_MS
        return 1

    def abandon(self, attempt: str, now: int) -> bool:
        """Whether nobody can run it any more: what is over or has a final result is not abandoned."""
        claim, status = self.claims.get(attempt), self.results.get(attempt)
        if status in FINAL:
            return False
        if claim is not None and claim.state == protocol.CLAIM_DONE:
            if status == "RETRY":
                self.next_abandoned.add(attempt)
            return attempt in self.next_abandoned
        if claim is not None and claim.state == protocol.CLAIM_RUNNING and claim.until > now:
            return False
        self.claims.setdefault(attempt, Claim("")).state = protocol.CLAIM_ABANDONED
        return True


FINAL = ("SUCCESS", "FAILURE", "REVOKED", "REJECTED")
which = st.integers(0, 5)
attempt = st.sampled_from("ab")
claimed = st.tuples(st.just("claim"), attempt, st.booleans())
Event = st.one_of(
    claimed,
    claimed,
    st.tuples(st.just("again"), which, st.booleans()),
    st.tuples(st.just("conclude"), st.lists(which, min_size=1, max_size=3), st.sampled_from([RELEASE, "done"])),
    st.tuples(st.just("conclude"), st.lists(which, min_size=1, max_size=1), st.just(RELEASE)),
    st.tuples(st.just("renew"), st.lists(which, min_size=1, max_size=3)),
    st.tuples(st.just("note a retry"), which, st.sampled_from([0, 600, 2 * protocol.CLAIM_KEEP_SECONDS])),
    st.tuples(st.just("result"), attempt, st.sampled_from(["STARTED", "RETRY", *FINAL])),
    st.tuples(st.just("note the end"), attempt),
    st.tuples(st.just("abandon"), st.lists(attempt, min_size=1, max_size=2)),
    st.tuples(st.just("wait"), st.sampled_from([1, 1_000, LEASE_MS])),
    st.tuples(st.just("flush")),
    st.tuples(st.just("forget scripts")),
)


class Stage:
    """Drives the scripts and the model side by side, and knows who believes to hold what."""

    def __init__(self, store: ClaimStore) -> None:
        self.store = store
        self.client: Any = store.client
        self.abandon_all = self.client.register_script(ABANDON_SCRIPT.replace("redis.call('TIME')", CLOCK))
        self.now_ms = 1_800_000_000_000
        self.asked: list[Asked] = []
        self.model = Model()
        self.believes: dict[Asked, int] = {}
        """Until when a delivery that was told so may run; without the model."""
        self.flush()

    def do(self, name: str, *arguments: Any) -> None:
        getattr(self, name.replace(" ", "_"))(*arguments)

    def claim(self, attempt: str, result_seen: bool) -> None:  # noqa: FBT001
        self._claim(Asked(attempt, f"t{len(self.asked)}"), result_seen=result_seen)

    def again(self, number: int, result_seen: bool) -> None:  # noqa: FBT001
        """The answer was lost on the way, or the result was looked at meanwhile."""
        if self.asked:
            self._claim(self._of(number), result_seen=result_seen)

    def _claim(self, by: Asked, *, result_seen: bool) -> None:
        self.asked.append(by)
        expected, number, left = self.model.claim(by, self.now_ms, result_seen=result_seen)
        answer = self.store.claim(by.attempt, 0, token=by.token, worker="w", name="t", result_seen=result_seen)
        assert answer.verdict is expected
        assert (answer.starts or answer.until_ms, answer.left_ms) == (number, left)
        if answer.verdict is Verdict.CLAIMED:
            self.believes[by] = self.now_ms + LEASE_MS

    def conclude(self, numbers: list[int], state: str) -> None:
        """Several ends in one command; late ones and repeated ones among them."""
        if self.asked:
            ends = [self._of(number) for number in numbers]
            lost = [self.model.conclude(by, state) for by in ends].count(False)
            assert self.store.conclude([(self._key(by.attempt), by.token, state) for by in ends]) == lost
            for by in ends:
                self.believes.pop(by, None)

    def note_a_retry(self, number: int, seconds: int) -> None:
        """The execution has ended with a retry by Celery's own means; its end is concluded after that."""
        if self.asked:
            by = self._of(number)
            expected = self.model.note_retry(by, self.now_ms + 1000 * seconds)
            assert self.store.note_retry(self._key(by.attempt), by.token, NextRetry(float(seconds))) is expected

    def renew(self, numbers: list[int]) -> None:
        if self.asked:
            held = [self._of(number) for number in numbers]
            expected = [self.model.renew(by, self.now_ms) for by in held]
            assert self.store.renew([(self._key(by.attempt), by.token) for by in held]) == expected
            for by, answer in zip(held, expected, strict=True):
                if answer == 1:
                    assert by in self.believes, "what was given back is held again"
                    self.believes[by] = self.now_ms + LEASE_MS
                else:
                    self.believes.pop(by, None)

    def result(self, attempt: str, status: str) -> None:
        self.client.set(f"{protocol.RESULT_KEY_PREFIX}{attempt}", json.dumps({"status": status}), ex=60)
        self.model.results[attempt] = status

    def note_the_end(self, attempt: str) -> None:
        self.store.record_done(self._key(attempt))
        self.model.claims.setdefault(attempt, Claim("")).state = protocol.CLAIM_DONE
        self._over(attempt)

    def abandon(self, attempts: list[str]) -> None:
        """What the operator does with attempts that nobody runs, as far as it knows."""
        expected = [self.model.abandon(attempt, self.now_ms) for attempt in attempts]
        keys = [key for each in attempts for key in (self._key(each), f"{protocol.RESULT_KEY_PREFIX}{each}")]
        answers = self.abandon_all(keys=keys, args=[protocol.CLAIM_KEEP_SECONDS, MOST_RETRIES])
        assert [bool(answer) for answer in answers] == expected
        for attempt in (each for each, gone in zip(attempts, expected, strict=True) if gone):
            assert not [by for by, until in self.believes.items() if by.attempt == attempt and until > self.now_ms]
            self._over(attempt)

    def _over(self, attempt: str) -> None:
        self.believes = {by: until for by, until in self.believes.items() if by.attempt != attempt}

    def wait(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        seconds, rest = divmod(self.now_ms, 1000)
        self.client.mset({"test-clock-s": seconds, "test-clock-us": rest * 1000})

    def flush(self) -> None:
        self.client.flushdb()
        self.model = Model()
        self.believes.clear()
        self.wait(0)

    def forget_scripts(self) -> None:
        self.client.script_flush()

    def check(self) -> None:
        living = [by for by, until in self.believes.items() if until > self.now_ms]
        assert len({by.attempt for by in living}) == len(living), "two deliveries of one attempt may run"
        for key in (key for key in self.client.keys("*") if not key.startswith(b"test-clock")):
            assert key.startswith((protocol.CLAIM_PREFIX.encode(), protocol.RESULT_KEY_PREFIX.encode()))
            assert 0 < self.client.ttl(key) <= protocol.CLAIM_KEEP_SECONDS + self._until_retry(key)
        for attempt, claim in self.model.claims.items():
            noted = self.client.hget(self._key(attempt), "retry_at")
            assert (None if noted is None else int(noted)) == claim.retry_at

    def _until_retry(self, key: bytes) -> int:
        """Return by how much longer than others a claim may be kept: until its retry is due, as was said."""
        noted = key.startswith(protocol.CLAIM_PREFIX.encode()) and self.client.hexists(key, "retry_at")
        return 2 * protocol.CLAIM_KEEP_SECONDS if noted else 0

    def _of(self, number: int) -> Asked:
        return self.asked[number % len(self.asked)]

    def _key(self, attempt: str) -> str:
        return self.store.key(attempt, 0)


@pytest.mark.models(ABANDON_SCRIPT, CLAIM_SCRIPT, CONCLUDE_SCRIPT, NOTE_RETRY_SCRIPT, RECORD_DONE_SCRIPT, RENEW_SCRIPT)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, min_size=5, max_size=40))
@example(events=[("claim", "a", False), ("conclude", [0], RELEASE), ("renew", [0]), ("claim", "a", False)])
def test_attempt_is_claimed_by_one_delivery_at_a_time_and_never_after_its_end(
    store: ClaimStore, events: list[tuple[Any, ...]]
) -> None:
    stage = Stage(store)
    for name, *arguments in events:
        stage.do(name, *arguments)
        stage.check()
