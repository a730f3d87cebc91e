"""A circuit that a fleet shares: when it opens, who may try, and what closes it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery

from celery_patterns.resilience.circuit import (
    Change,
    CircuitBreaker,
    CircuitOpen,
    CircuitSettings,
    Permit,
    changes,
    circuits,
)
from celery_patterns.store import Store, StoreSettings, StoreUnavailable
from patterns.resilience.clocked import ClockedStore
from servers import RedisServer, eventually, redis_server

pytestmark = pytest.mark.every_redis

QUICK = CircuitSettings(
    window_seconds=10, minimum_calls=4, failure_rate=0.5, slow_seconds=1, open_seconds=5, trial_seconds=3
)


class DownError(ConnectionError):
    pass


def fail(circuit: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(DownError), circuit:
            raise DownError


def succeed(circuit: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with circuit:
            pass


def circuit_of(store: Store, settings: CircuitSettings = QUICK, **options: Any) -> CircuitBreaker:
    return CircuitBreaker(store, "payments", settings, **options)


def test_opens_at_the_failure_rate_and_not_before_the_minimum_of_calls(clocked: ClockedStore) -> None:
    circuit = circuit_of(clocked)
    succeed(circuit, 2)
    fail(circuit)
    assert circuit.state().state == "closed"
    fail(circuit)
    state = circuit.state()
    assert (state.state, state.reason, state.open_for) == ("open", "2 of 4 calls failed", 5.0)
    with pytest.raises(CircuitOpen, match=r"the circuit 'payments' is open: try again in 5\.0 s"):
        circuit.allow()


def test_failures_leave_the_window(clocked: ClockedStore) -> None:
    circuit = circuit_of(clocked)
    fail(circuit, 3)
    clocked.advance(10_001)
    fail(circuit, 3)
    assert circuit.state().state == "closed"
    assert circuit.state().calls == 3


def test_slow_calls_open_it_too(clocked: ClockedStore) -> None:
    circuit = circuit_of(clocked)
    for _ in range(4):
        circuit.record(circuit.allow(), seconds=1.5)
    assert circuit.state().reason == "4 of 4 calls were slow"


def test_half_open_lets_one_of_twenty_through(store: Store) -> None:
    settings = CircuitSettings(minimum_calls=1, open_seconds=0.2, trial_seconds=10)
    circuits = [circuit_of(store, settings) for _ in range(20)]
    fail(circuits[0])
    eventually(lambda: circuits[0].state().open_for == 0)
    barrier = threading.Barrier(20)

    def ask(circuit: CircuitBreaker) -> Permit | None:
        barrier.wait()
        try:
            return circuit.allow()
        except CircuitOpen:
            return None

    with ThreadPoolExecutor(20) as pool:
        permits = [permit for permit in pool.map(ask, circuits) if permit is not None]
    assert [permit.trial for permit in permits] == [True]
    circuits[0].record(permits[0])
    assert circuits[7].state().state == "closed"


def test_trial_that_fails_opens_it_again_and_one_that_passes_closes_it(clocked: ClockedStore) -> None:
    heard: list[Change] = []
    circuit = circuit_of(clocked, listeners=[heard.append])
    fail(circuit, 4)
    clocked.advance(5_000)
    fail(circuit)
    assert circuit.state().state == "open"
    clocked.advance(5_000)
    succeed(circuit)
    assert circuit.state().state == "closed"
    assert circuit.state().calls == 0
    assert [(change.before, change.after) for change in heard] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]


def test_changes_are_heard_by_all_who_listen(clocked: ClockedStore) -> None:
    with changes(clocked) as heard:
        circuit = circuit_of(clocked)
        assert heard(0.01) is None
        fail(circuit, 4)
        clocked.advance(5_000)
        succeed(circuit)
        circuit.force_open(1, "by hand")
        said = [eventually(lambda: heard(0.2)) for _ in range(4)]
    assert said == [
        Change("payments", "closed", "open", "4 of 4 calls failed"),
        Change("payments", "open", "half_open", "its time is over: one call tries"),
        Change("payments", "half_open", "closed", "1 trial(s) passed"),
        Change("payments", "closed", "open", "by hand"),
    ]


def test_a_prefix_that_would_be_a_pattern_is_taken_at_its_word(redis: RedisServer) -> None:
    """As another application's circuits would be shown and heard otherwise, or one's own not."""
    with Celery("test", set_as_current=False) as app:
        mine, other = (Store(app, StoreSettings(url=redis.url(3), prefix=each)) for each in ("a[1]\\*", "a[1]\\b"))
        mine.client.flushall()
        with changes(mine) as heard:
            for store in (other, mine):
                circuit_of(store).force_open(60, "by hand")
            assert [heard(5), heard(0.1)] == [Change("payments", "closed", "open", "by hand"), None]
        assert [(state.name, state.state) for state in circuits(mine)] == [("payments", "open")]
        mine.close()
        other.close()


def test_as_many_trials_as_wanted_have_to_pass_one_at_a_time(clocked: ClockedStore) -> None:
    circuit = circuit_of(clocked, CircuitSettings(minimum_calls=1, open_seconds=1, trials=2))
    fail(circuit)
    clocked.advance(1_000)
    first = circuit.allow()
    with pytest.raises(CircuitOpen):
        circuit.allow()
    circuit.record(first)
    assert circuit.state().state == "half_open"
    succeed(circuit)
    assert circuit.state().state == "closed"


def test_dead_probers_trial_ends_with_its_lease_and_its_late_word_counts_for_nothing(clocked: ClockedStore) -> None:
    circuit = circuit_of(clocked)
    fail(circuit, 4)
    clocked.advance(5_000)
    dead = circuit.allow()
    clocked.advance(2_999)
    with pytest.raises(CircuitOpen):
        circuit.allow()
    clocked.advance(1)
    heir = circuit.allow()
    circuit.record(dead)
    assert circuit.state().state == "half_open"
    circuit.record(heir)
    assert circuit.state().state == "closed"


PROBER = """
import os, signal, sys
from celery import Celery
from celery_patterns.resilience.circuit import CircuitBreaker, CircuitSettings
from celery_patterns.store import Store, StoreSettings
store = Store(Celery(), StoreSettings(url=sys.argv[1]))
permit = CircuitBreaker(store, "payments", CircuitSettings(open_seconds=0.1, trial_seconds=0.5)).allow()
os.kill(os.getpid(), signal.SIGKILL if permit.trial else signal.SIGTERM)
"""


def test_killed_probers_trial_is_free_after_its_lease(store: Store, redis: RedisServer) -> None:
    circuit = circuit_of(store, CircuitSettings(open_seconds=0.1, trial_seconds=0.5, minimum_calls=1))
    fail(circuit)
    eventually(lambda: circuit.state().open_for == 0)
    prober = subprocess.run([sys.executable, "-c", PROBER, redis.url(3)], check=False, timeout=60)
    assert prober.returncode == -signal.SIGKILL
    assert circuit.state().state == "half_open"

    def allowed() -> bool:
        try:
            return circuit.allow().trial
        except CircuitOpen:
            return False

    eventually(allowed, within=3)


def test_call_that_began_before_the_circuit_opened_counts_for_nothing_after(clocked: ClockedStore) -> None:
    circuit = circuit_of(clocked)
    old = [circuit.allow() for _ in range(8)]
    fail(circuit, 4)
    clocked.advance(5_000)
    succeed(circuit)
    for permit in old:
        circuit.record(permit, DownError())
    assert (circuit.state().state, circuit.state().calls) == ("closed", 0)


def test_bugs_and_refusals_are_no_failures_of_the_dependency(clocked: ClockedStore) -> None:
    """A TypeError is ours and is not counted; a 404 is an answer and counts as one."""
    circuit = circuit_of(clocked)

    class NotFoundError(Exception):
        status = 404

    for error in (TypeError(), TypeError(), NotFoundError(), NotFoundError(), KeyboardInterrupt()):
        circuit.record(circuit.allow(), error)
    assert (circuit.state().calls, circuit.state().failures) == (2, 0)
    own = circuit_of(clocked, failed=lambda error: isinstance(error, TypeError))
    own.record(own.allow(), TypeError())
    assert own.state().failures == 1


def test_trial_that_says_nothing_gives_its_place_back(clocked: ClockedStore) -> None:
    circuit = circuit_of(clocked)
    fail(circuit, 4)
    clocked.advance(5_000)
    with pytest.raises(TypeError), circuit:
        raise TypeError
    assert circuit.allow().trial


def test_force_open_and_reset(clocked: ClockedStore) -> None:
    circuit = circuit_of(clocked)
    circuit.force_open(60, "maintenance")
    assert (circuit.state().state, circuit.state().forced, circuit.state().reason) == ("open", True, "maintenance")
    clocked.advance(59_999)
    with pytest.raises(CircuitOpen):
        circuit.allow()
    clocked.advance(1)
    assert circuit.allow().trial
    circuit.force_open(60)
    circuit.reset()
    succeed(circuit)
    assert circuit.state().state == "closed"
    assert clocked.without_ttl() == []
    with pytest.raises(ValueError, match="seconds must be above 0"):
        circuit.force_open(0)


def test_clock_that_steps_back_does_not_keep_it_open(clocked: ClockedStore) -> None:
    circuit = circuit_of(clocked)
    fail(circuit, 4)
    clocked.advance(-3_600_000)
    with pytest.raises(CircuitOpen):
        circuit.allow()
    clocked.advance(5_000)
    assert circuit.allow().trial


def test_decorator_calls_and_returns(store: Store) -> None:
    circuit = circuit_of(store)

    @circuit
    def double(number: int) -> int:
        """Double it."""
        return number * 2

    assert (double(4), double.__name__, circuit.call(double, 5)) == (8, "double", 10)
    assert circuit.state().calls == 3


def test_listener_that_fails_harms_no_call(clocked: ClockedStore, caplog: pytest.LogCaptureFixture) -> None:
    def listener(change: Change) -> None:
        raise RuntimeError(change.circuit)

    fail(circuit_of(clocked, listeners=[listener]), 4)
    assert "a listener of the circuit 'payments' failed" in caplog.text


@pytest.mark.parametrize("store_down", ["closed", "open"])
def test_store_that_is_down_counts_as_chosen_and_costs_one_question_a_second(
    store_down: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server() as server, Celery("test", set_as_current=False) as app:
        store = Store(app, StoreSettings(url=server.url()))
        circuit = CircuitBreaker(store, "payments", CircuitSettings(store_down=store_down))
        succeed(circuit)
        server.stop()
        ran = 0
        for _ in range(50):
            with suppress(CircuitOpen), circuit:
                ran += 1
        assert ran == (50 if store_down == "closed" else 0)
        assert caplog.text.count("the circuit 'payments' counts as") == 1
        with pytest.raises(StoreUnavailable):
            circuit.state()
        server.start()

        def guarded() -> bool:
            with circuit:
                pass
            return circuit.state().calls > 0

        eventually(guarded, within=5)
        store.close()


def test_flush_is_a_clean_start(store: Store) -> None:
    circuit = circuit_of(store)
    fail(circuit, 4)
    permit = Permit("old", generation=7, trial=True)
    store.client.flushall()
    store.client.script_flush()
    succeed(circuit)
    circuit.record(permit, DownError())
    assert (circuit.state().state, circuit.state().calls) == ("closed", 1)


def test_threads_each_have_their_own_call(store: Store) -> None:
    circuit = circuit_of(store, CircuitSettings(minimum_calls=1000))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: succeed(circuit, 10), range(8)))
    state = circuit.state()
    assert Counter(calls=state.calls, failures=state.failures) == Counter(calls=80)


def test_real_time_passes_as_the_servers_does(store: Store) -> None:
    circuit = circuit_of(store, CircuitSettings(minimum_calls=1, open_seconds=0.3))
    fail(circuit)
    began = time.monotonic()  # noqa: TID251 - the server's own time passes

    def allowed() -> bool:
        try:
            return circuit.allow().trial
        except CircuitOpen:
            return False

    eventually(allowed, within=3)
    assert time.monotonic() - began >= 0.25  # noqa: TID251


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_seconds": 0}, "window_seconds must be 0.1 to 86400, got 0"),
        ({"failure_rate": 1.5}, "failure_rate must be above 0 and at most 1, got 1.5"),
        ({"minimum_calls": 0}, "minimum_calls and trials must be 1 or more, got 0 and 1"),
        ({"slow_seconds": 0}, "slow_seconds must be above 0 or None, got 0"),
        ({"store_down": "maybe"}, "store_down must be 'closed' or 'open', got 'maybe'"),
    ],
)
def test_wrong_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CircuitSettings(**options)
