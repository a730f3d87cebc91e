"""The circuit's Lua against a plain model, under calls that end late, twice, never or out of order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_patterns.resilience.chunks import standalone
from celery_patterns.resilience.circuit import CircuitBreaker, CircuitOpen, CircuitSettings, Permit
from celery_patterns.resilience.circuit_scripts import ALLOW, FORCE, GIVE_BACK_CHUNK, LOOK, RECORD
from celery_patterns.resilience.circuit_settings import BUCKETS
from patterns.resilience.clocked import ClockedStore, play

pytestmark = pytest.mark.every_redis

RULES = CircuitSettings(
    window_seconds=10,
    minimum_calls=3,
    failure_rate=0.5,
    slow_seconds=1,
    slow_rate=1.0,
    open_seconds=5,
    trials=2,
    trial_seconds=3,
)
GIVE_BACK = standalone(GIVE_BACK_CHUNK, "circuit give back")


class DownError(ConnectionError):
    pass


@dataclass
class Model:
    """What the circuit's documentation says, in a few lines."""

    state: str = "closed"
    generation: int = 0
    until: int = 0
    trial: str | None = None
    trial_until: int = 0
    passed: int = 0
    calls: list[tuple[int, bool, bool]] = field(default_factory=list)
    forced: bool = False

    def turn(self, state: str, now: int) -> None:
        self.state, self.generation, self.calls, self.trial, self.passed = state, self.generation + 1, [], None, 0
        self.until, self.forced = now + 5_000, False

    def allow(self, holder: str, now: int) -> bool:
        if self.state == "closed":
            return True
        if self.state == "open":
            if self.until > now:
                return False
            self.turn("half_open", now)
        elif self.trial not in (None, holder) and self.trial_until > now:
            return False
        self.trial, self.trial_until = holder, now + 3_000
        return True

    def record(self, holder: str, generation: int, failed: bool | None, slow: bool, now: int) -> None:  # noqa: FBT001
        if self.state == "half_open":
            if self.trial != holder:
                return
            if failed is None:
                self.trial = None
            elif failed or slow:
                self.turn("open", now)
            else:
                self.trial, self.passed = None, self.passed + 1
                if self.passed == 2:
                    self.turn("closed", now)
        elif self.state == "closed" and generation == self.generation and failed is not None:
            epoch = now // 1_000
            self.calls = [call for call in self.calls if call[0] > epoch - BUCKETS] + [(epoch, failed, slow)]
            failures = sum(call[1] for call in self.calls)
            slows = sum(call[2] for call in self.calls)
            if len(self.calls) >= 3 and (failures * 2 >= len(self.calls) or slows == len(self.calls)):
                self.turn("open", now)


Event = st.one_of(
    st.tuples(st.just("allow"), st.integers(0, 5)),
    st.tuples(
        st.just("record"), st.integers(0, 5), st.sampled_from([True, False, None]), st.sampled_from([True, False])
    ),
    st.tuples(st.just("wait"), st.sampled_from([1, 400, 1_000, 2_999, 3_000, 5_000, 9_000])),
    st.tuples(st.just("give_back"), st.integers(0, 5)),
    st.tuples(st.just("force_open"), st.sampled_from([500, 7_000])),
    st.tuples(st.just("reset")),
    st.tuples(st.just("flush")),
)


class Stage:
    """Drives the scripts and the model side by side."""

    def __init__(self, store: ClockedStore) -> None:
        self.store = store
        self.circuit = CircuitBreaker(
            store, "model", RULES, failed=lambda error: True if isinstance(error, DownError) else None
        )
        self.permits: dict[int, Permit] = {}
        store.set_clock(1_800_000_000_500)
        self.flush()

    @property
    def now(self) -> int:
        return self.store.now_ms

    def wait(self, milliseconds: int) -> None:
        self.store.advance(milliseconds)

    def allow(self, number: int) -> None:
        expected = self.model.allow(f"h{number}", self.now)
        try:
            self.permits[number] = self.circuit.allow(f"h{number}")
            allowed = True
        except CircuitOpen:
            allowed = False
        assert allowed == expected

    def record(self, number: int, failed: bool | None, slow: bool) -> None:  # noqa: FBT001
        """The permit stays: a redelivered message records the same call again."""
        permit = self.permits.get(number)
        if permit is None:
            return
        assert permit.generation is not None
        error = {True: DownError(), False: None, None: TypeError()}[failed]
        self.circuit.record(permit, error, 1.5 if slow else 0.1)
        self.model.record(permit.holder, permit.generation, failed, slow, self.now)

    def give_back(self, number: int) -> None:
        """A later policy did not let the trial begin; or a call that has nothing gives back once more."""
        self.store.run(GIVE_BACK, [self.circuit.key], [f"h{number}"])
        if self.model.trial == f"h{number}":
            self.model.trial = None

    def force_open(self, milliseconds: int) -> None:
        self.circuit.force_open(milliseconds / 1000)
        self.model.turn("open", self.now)
        self.model.until, self.model.forced = self.now + milliseconds, True

    def reset(self) -> None:
        self.circuit.reset()
        self.model.turn("closed", self.now)

    def flush(self) -> None:
        self.store.client.flushdb()
        self.store.set_clock(self.now)
        self.model = Model()

    def check(self) -> None:
        state, model = self.circuit.state(), self.model
        assert (state.state, state.generation, state.trial or None) == (model.state, model.generation, model.trial)
        assert state.forced == model.forced
        live = [call for call in model.calls if call[0] > self.now // 1_000 - BUCKETS]
        assert (state.calls, state.failures, state.slow) == (
            len(live),
            sum(call[1] for call in live),
            sum(call[2] for call in live),
        )
        assert self.store.without_ttl() == []


@pytest.mark.models(ALLOW, FORCE, GIVE_BACK, LOOK, RECORD)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, max_size=50))
def test_circuit_does_what_its_model_does(clocked: ClockedStore, events: list[tuple[Any, ...]]) -> None:
    play(Stage(clocked), clocked, events)
