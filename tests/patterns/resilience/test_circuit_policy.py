"""The circuit as a task's policy, in the scripts that tasks run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.exceptions import TimeLimitExceeded

from celery_patterns.resilience.circuit import CircuitBreaker, CircuitOpen
from celery_patterns.resilience.circuit_policy import Circuit
from celery_patterns.store import StoreUnavailable
from celery_patterns.tasks.composition import admit, settle
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Admit, Call, Decision, Defer, Outcome, PolicyError, Refuse
from patterns.resilience.clocked import ClockedStore

pytestmark = pytest.mark.every_redis

CIRCUIT = Circuit("api:{tenant}", min_calls=2, open_for="10s", trial_lease="20s")
LEASE_SECONDS = 30


@pytest.fixture
def task(clocked: ClockedStore) -> Any:
    app = Celery("shop", set_as_current=False, broker="memory://")
    patterns_of(app)._store = clocked

    @app.task(name="charge", shared=False)  # type: ignore[untyped-decorator]
    def charge(tenant: str) -> None:
        """Charge it."""

    return app.tasks["charge"]


def call(task: Any, number: int, tenant: str = "t1") -> Call:
    return Call(task=task, id=f"id{number}", token=f"token{number}", arguments={"tenant": tenant})


def begin(store: ClockedStore, policy: Circuit, of: Call) -> Decision:
    return policy.admitted(of, admit(store, of, [policy.admission(of)], LEASE_SECONDS).replies[0])


def end(store: ClockedStore, policy: Circuit, of: Call, error: BaseException | None = None) -> None:
    outcome = Outcome.SUCCESS if error is None else Outcome.FAILURE
    _, replies = settle(store, of, [policy.settlement(of, outcome, error, 0.1)], outcome)
    policy.settled(of, outcome, replies[0])


def test_failing_tasks_open_the_circuit_of_their_key_and_others_are_deferred(clocked: ClockedStore, task: Any) -> None:
    for each in (call(task, 1), call(task, 2)):
        assert begin(clocked, CIRCUIT, each) == Admit()
        end(clocked, CIRCUIT, each, ConnectionError())
    decision = begin(clocked, CIRCUIT, call(task, 3))
    assert isinstance(decision, Defer)
    assert 10 <= decision.seconds <= 12.5
    assert decision.reason == "the circuit 'api:t1' is open"
    assert begin(clocked, CIRCUIT, call(task, 4, tenant="t2")) == Admit()


def lose(store: ClockedStore, policy: Circuit, of: Call, error: BaseException) -> None:
    """Let the process of a call end; what its main process knows of it is Celery's request."""
    request = SimpleNamespace(id=of.id, token=of.token, args=(), kwargs=of.arguments, time_start=store.now_ms / 1000)
    policy.lost(of.task, request, error)


def test_calls_that_hang_until_the_hard_limit_open_the_circuit_and_killed_ones_say_nothing(
    clocked: ClockedStore, task: Any
) -> None:
    for number in (1, 2, 3):
        assert begin(clocked, CIRCUIT, call(task, number)) == Admit()
        lose(clocked, CIRCUIT, call(task, number), WorkerLostError())
    for number in (4, 5):
        assert begin(clocked, CIRCUIT, call(task, number)) == Admit()
        lose(clocked, CIRCUIT, call(task, number), TimeLimitExceeded(1))
    assert isinstance(begin(clocked, CIRCUIT, call(task, 6)), Defer)


@pytest.mark.parametrize(("error", "after"), [(TimeLimitExceeded(1), "open"), (WorkerLostError(), "half_open")])
def test_trial_that_hangs_opens_the_circuit_again_and_a_killed_one_frees_it(
    clocked: ClockedStore, task: Any, error: BaseException, after: str
) -> None:
    breaker = CircuitBreaker(clocked, "api:t1", CIRCUIT.settings)
    breaker.force_open(10)
    clocked.advance(10_000)
    assert begin(clocked, CIRCUIT, call(task, 1)) == Admit()
    lose(clocked, CIRCUIT, call(task, 1), error)
    assert breaker.state().state == after
    assert (begin(clocked, CIRCUIT, call(task, 2)) == Admit()) == (after == "half_open")


def test_one_task_is_the_trial_and_closes_it(clocked: ClockedStore, task: Any) -> None:
    breaker = CircuitBreaker(clocked, "api:t1", CIRCUIT.settings)
    breaker.force_open(10)
    clocked.advance(10_000)
    trial = call(task, 1)
    assert begin(clocked, CIRCUIT, trial) == Admit()
    assert isinstance(begin(clocked, CIRCUIT, call(task, 2)), Defer)
    end(clocked, CIRCUIT, trial)
    assert breaker.state().state == "closed"


def test_trial_of_a_living_task_outlasts_the_trials_lease_and_that_of_a_lost_one_does_not(
    clocked: ClockedStore, task: Any
) -> None:
    CircuitBreaker(clocked, "api:t1", CIRCUIT.settings).force_open(10)
    clocked.advance(10_000)
    assert begin(clocked, CIRCUIT, call(task, 1)) == Admit()
    clocked.advance(25_000)
    assert isinstance(begin(clocked, CIRCUIT, call(task, 2)), Defer), "its worker still renews its lease"
    clocked.advance(5_001)
    assert begin(clocked, CIRCUIT, call(task, 3)) == Admit()


def test_trial_that_a_later_policy_defers_is_free_again(clocked: ClockedStore, task: Any) -> None:
    CircuitBreaker(clocked, "api:t1", CIRCUIT.settings).force_open(10)
    clocked.advance(10_000)
    first = call(task, 1)
    assert begin(clocked, CIRCUIT, first) == Admit()
    settle(clocked, first, [CIRCUIT.settlement(first, Outcome.DEFERRED, None, 0.0)], Outcome.DEFERRED)
    assert begin(clocked, CIRCUIT, call(task, 2)) == Admit()


def test_listeners_hear_each_change_that_tasks_bring_about(clocked: ClockedStore, task: Any) -> None:
    """What ``failed`` says counts; an error that it does not call a failure would else be one."""
    heard: list[tuple[str, str, str]] = []
    policy = Circuit(
        "api",
        min_calls=2,
        open_for="10s",
        trial_lease="20s",
        listeners=[lambda change: heard.append((change.before, change.after, change.reason))],
        failed=lambda error: str(error) == "down",
    )

    def run(number: int, words: str | None) -> None:
        each = call(task, number)
        assert begin(clocked, policy, each) == Admit()
        end(clocked, policy, each, None if words is None else ConnectionError(words))

    for number, words in enumerate(["no stock", "no stock", "down", "down"]):
        run(number, words)
    clocked.advance(10_000)
    run(5, "down")
    clocked.advance(10_000)
    run(6, None)
    assert heard == [
        ("closed", "open", "2 of 4 calls failed"),
        ("open", "half_open", "its time is over: one call tries"),
        ("half_open", "open", "the trial failed"),
        ("open", "half_open", "its time is over: one call tries"),
        ("half_open", "closed", "1 trial(s) passed"),
    ]


def test_on_open_fail_refuses(clocked: ClockedStore, task: Any) -> None:
    policy = Circuit("api:{tenant}", on_open="fail")
    CircuitBreaker(clocked, "api:t1").force_open(10)
    decision = begin(clocked, policy, call(task, 1))
    assert isinstance(decision, Refuse)
    assert isinstance(decision.error, CircuitOpen)
    assert decision.error.retry_after == 10


def test_store_that_is_down_counts_as_chosen(task: Any) -> None:
    error = StoreUnavailable("gone")
    assert Circuit("api").store_down(call(task, 1), error) == Admit()
    assert isinstance(Circuit("api", if_store_down="open").store_down(call(task, 1), error), Defer)
    assert isinstance(Circuit("api", if_store_down="open", on_open="fail").store_down(call(task, 1), error), Refuse)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"circuit": ""}, "circuit: expected a text"),
        ({"circuit": "a", "window": "soon"}, "circuit: window: expected seconds or a text"),
        ({"circuit": "a", "on_open": "wait"}, "circuit: on_open: expected one of defer, fail"),
        ({"circuit": "a", "if_store_down": "x"}, "circuit: store_down must be 'closed' or 'open', got 'x'"),
        ({"circuit": "a", "failure_rate": 3}, "circuit: failure_rate must be above 0 and at most 1, got 3"),
        (
            {"circuit": "a", "listeners": "log"},
            "circuit: listeners: expected a list of functions",
        ),
        ({"circuit": "a", "failed": 3}, "circuit: failed: expected a function of an exception, got 3"),
        ({"circuit": "a", "max_defer": "x"}, "circuit: max_defer: expected seconds"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Circuit(**options)


def test_template_that_the_task_does_not_fill_is_refused_when_it_is_declared(task: Any) -> None:
    with pytest.raises(PolicyError, match=r"circuit: 'api:\{user\}' names 'user'"):
        Circuit("api:{user}").bind(task)
