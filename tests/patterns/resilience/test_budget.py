"""A fleet's retries stay within their budget, in whatever order its workers ask."""

from __future__ import annotations

from collections import deque

import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_patterns.resilience.budget import BUCKETS, SCRIPT, Budget, BudgetAnswer, FleetBudget, RetryBudget
from celery_patterns.store import Store, StoreSettings, StoreUnavailable
from celery_patterns.tasks.composition import admit, settle
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Call, Outcome, PolicyError
from patterns.resilience.clocked import ClockedStore
from servers import RedisServer, redis_server

pytestmark = pytest.mark.every_redis

HALF = Budget(ratio=0.5, window_seconds=10, minimum=2)


def test_retries_are_a_share_of_first_tries_plus_the_minimum(store: Store) -> None:
    budget = RetryBudget(store, "api", HALF)
    assert [budget.ask_retry().allowed for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.count_first()
    assert [budget.ask_retry().allowed for _ in range(3)] == [True, True, False]
    answer = budget.ask_retry()
    assert (answer.allowed, answer.firsts, answer.retries) == (False, 4, 4)
    assert 8 < answer.retry_after <= 10
    assert 0 < store.client.pttl(budget.key) <= 11_000


def test_budgets_of_other_names_are_apart(store: Store) -> None:
    for _ in range(3):
        RetryBudget(store, "one", HALF).ask_retry()
    assert RetryBudget(store, "other", HALF).ask_retry() == BudgetAnswer(
        allowed=True, firsts=0, retries=1, retry_after=0
    )


def test_forgotten_scripts_and_a_flushed_server_are_a_clean_start(store: Store) -> None:
    budget = RetryBudget(store, "api", HALF)
    budget.ask_retry()
    store.client.script_flush()
    assert budget.ask_retry().retries == 2
    store.client.flushall()
    assert budget.look() == BudgetAnswer(allowed=True, firsts=0, retries=0, retry_after=0)


def test_store_that_is_down_is_named() -> None:
    with redis_server() as server, Celery("test", set_as_current=False) as app:
        store = Store(app, StoreSettings(url=f"redis://user:secret@127.0.0.1:{server.port}/0"))
        server.stop()
        with pytest.raises(StoreUnavailable, match=rf"127\.0\.0\.1:{server.port}/0") as caught:
            RetryBudget(store, "api", HALF).ask_retry()
        store.close()
    assert "secret" not in str(caught.value)


Events = st.lists(
    st.tuples(st.sampled_from(["first", "first", "retry", "retry", "look", "flush"]), st.integers(0, 4_000)),
    max_size=60,
)


@pytest.mark.models.with_args(SCRIPT)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=Events)
def test_no_window_holds_more_retries_than_it_may(clocked: ClockedStore, events: list[tuple[str, int]]) -> None:
    """Compared with a list of all that happened; the window is a whole number of tenths."""
    clocked.client.flushdb()
    clocked.set_clock(1_800_000_000_123)
    budget = RetryBudget(clocked, "api", HALF)
    width = int(HALF.window_seconds * 1000 / BUCKETS)
    seen: deque[tuple[str, int]] = deque()
    for question, pause in events:
        clocked.advance(pause)
        if question == "flush":
            clocked.client.flushdb()
            clocked.advance(0)
            seen.clear()
            continue
        epoch = clocked.now_ms // width
        while seen and seen[0][1] <= epoch - BUCKETS:
            seen.popleft()
        firsts = sum(kind == "first" for kind, _ in seen)
        retries = sum(kind == "retry" for kind, _ in seen)
        answer = {"first": budget.count_first, "retry": budget.ask_retry, "look": budget.look}[question]()
        room = retries + 1 <= int(firsts * HALF.ratio) + HALF.minimum
        expected = question != "retry" or room
        if question != "look" and expected:
            seen.append((question, epoch))
        assert answer.allowed == expected
        assert (answer.firsts, answer.retries) == (
            firsts + (question == "first"),
            retries + (question == "retry" and expected),
        )
        assert 0 <= answer.retry_after <= HALF.window_seconds
        if not answer.allowed:
            first_retry = next(at for kind, at in seen if kind == "retry")
            assert answer.retry_after == ((first_retry + BUCKETS) * width - clocked.now_ms) / 1000
    assert clocked.without_ttl() == []


def test_clock_that_steps_back_blocks_nothing(clocked: ClockedStore, redis: RedisServer) -> None:
    """A failover to a server with a slower clock: what lies in the future is not counted, and blocks nothing."""
    del redis
    budget = RetryBudget(clocked, "api", HALF)
    assert [budget.ask_retry().allowed for _ in range(3)] == [True, True, False]
    clocked.advance(-60_000)
    assert [budget.ask_retry().allowed for _ in range(3)] == [True, True, False]


def test_tasks_budget_counts_first_tries_that_ran_and_is_asked_for_retries(clocked: ClockedStore) -> None:
    app = Celery("shop", set_as_current=False, broker="memory://")
    patterns_of(app)._store = clocked

    @app.task(name="ask", shared=False)  # type: ignore[untyped-decorator]
    def ask() -> None:
        """Ask."""

    policy = FleetBudget("api", "50%/10s+1")
    for number in range(4):
        call = Call(app.tasks["ask"], id=f"id{number}", token="t", arguments={}, attempt=1)
        admit(clocked, call, [policy.admission(call)], 30)
        outcome = Outcome.DEFERRED if number == 3 else Outcome.FAILURE
        step = policy.settlement(call, outcome, KeyError(), 1.0)
        assert step is not None
        settle(clocked, call, [step], outcome)
    assert [policy.spend(call, KeyError()) for _ in range(3)] == [True, True, False]
    answer = RetryBudget(clocked, "api", Budget.parse("50%/10s+1")).look()
    assert (answer.firsts, answer.retries) == (3, 2)
    with pytest.raises(PolicyError, match=r"FleetBudget\.budget: expected a retry budget like"):
        FleetBudget("api", "some")
