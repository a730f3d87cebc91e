"""At most so many at once, and no place is lost with its holder."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_patterns.resilience import bulkhead as scripts
from celery_patterns.resilience.bulkhead import Bulkhead, BulkheadFull
from celery_patterns.resilience.bulkhead_policy import Limit
from celery_patterns.store import Store, StoreSettings, StoreUnavailable
from celery_patterns.tasks.composition import admit, settle
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Admit, Call, Decision, Defer, Outcome, PolicyError, Refuse
from patterns.resilience.clocked import ClockedStore
from servers import RedisServer, eventually, redis_server

pytestmark = pytest.mark.every_redis


def test_no_more_than_the_limit_are_in_at_once(store: Store) -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def visit(_: int) -> None:
        nonlocal inside, most
        with Bulkhead(store, "db", 3, wait_seconds=20):
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(visit, range(60)))
    assert (most <= 3, inside, Bulkhead(store, "db", 3).taken()) == (True, 0, 0)


def test_full_is_said_with_the_time_to_wait(store: Store) -> None:
    bulkhead = Bulkhead(store, "db", 1, lease_seconds=30)
    with bulkhead, pytest.raises(BulkheadFull, match="'db' is full: all 1 places are taken") as caught:
        bulkhead.enter()
    assert 0 < caught.value.retry_after <= 30

    @bulkhead
    def visit() -> str:
        return "in"

    assert visit() == "in"
    assert bulkhead.taken() == 0


def test_place_is_given_back_when_the_block_raises(store: Store) -> None:
    bulkhead = Bulkhead(store, "db", 1)
    with pytest.raises(KeyError), bulkhead:
        raise KeyError
    assert bulkhead.taken() == 0


HOLDER = """
import sys, time
from celery import Celery
from celery_patterns.resilience.bulkhead import Bulkhead
from celery_patterns.store import Store, StoreSettings
place = Bulkhead(Store(Celery(), StoreSettings(url=sys.argv[1])), "db", 1, lease_seconds=1).enter()
print("in", flush=True)
time.sleep(60)
"""


@pytest.mark.one_redis
def test_living_holder_outlasts_its_lease_and_a_killed_one_does_not(store: Store, redis: RedisServer) -> None:
    bulkhead = Bulkhead(store, "db", 1, lease_seconds=1)
    with subprocess.Popen([sys.executable, "-c", HOLDER, redis.url(3)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in\n"
        with pytest.raises(BulkheadFull):
            Bulkhead(store, "db", 1, wait_seconds=1.8).enter()
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)

        def entered() -> bool:
            try:
                bulkhead.leave(bulkhead.enter())
            except BulkheadFull:
                return False
            return True

        eventually(entered, within=2)


def test_store_that_is_down_is_an_error_and_its_return_a_clean_start() -> None:
    with redis_server() as server, Celery("test", set_as_current=False) as app:
        store = Store(app, StoreSettings(url=server.url()))
        bulkhead = Bulkhead(store, "db", 1)
        place = bulkhead.enter()
        server.stop()
        with pytest.raises(StoreUnavailable):
            bulkhead.enter()
        server.start()
        assert bulkhead.taken() == 0
        bulkhead.leave(place)
        store.close()


Event = st.tuples(st.sampled_from(["take", "renew", "leave", "wait"]), st.integers(0, 4))


@pytest.mark.models(scripts.LEAVE, scripts.LOOK, scripts.RENEW, scripts.TAKE)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, max_size=50))
def test_bulkhead_does_what_its_model_does(clocked: ClockedStore, events: list[tuple[str, int]]) -> None:
    """The model: holders with the end of their leases; whatever is called twice, late or by a stranger."""
    clocked.client.flushdb()
    clocked.set_clock(1_800_000_000_000)
    key, limit, lease = clocked.key("bulkhead", "m"), 2, 1_000
    held: dict[str, int] = {}
    for kind, number in events:
        now, holder = clocked.now_ms, f"h{number}"
        if kind == "wait":
            clocked.advance(number * 300)
        elif kind == "take":
            held = {name: until for name, until in held.items() if until > now}
            full = holder not in held and len(held) >= limit
            reply = clocked.run(scripts.TAKE, [key], [holder, limit, lease, 5_000])
            if full:
                assert reply == [1, limit, min(held.values()) - now]
            else:
                held[holder] = now + lease
                assert reply == [0, len(held), 0]
        elif kind == "renew":
            assert clocked.run(scripts.RENEW, [key], [holder, lease, 5_000]) == (holder in held)
            if holder in held:
                held[holder] = now + lease
        else:
            assert clocked.run(scripts.LEAVE, [key], [holder]) == (held.pop(holder, None) is not None)
        living = sum(until > clocked.now_ms for until in held.values())
        assert clocked.run(scripts.LOOK, [key], [""]) == living
    assert clocked.without_ttl() == []


@pytest.fixture
def task(clocked: ClockedStore) -> Any:
    app = Celery("shop", set_as_current=False, broker="memory://")
    patterns_of(app)._store = clocked

    @app.task(name="report", shared=False)  # type: ignore[untyped-decorator]
    def report(shard: int) -> None:
        """Report it."""

    return app.tasks["report"]


def call(task: Any, number: int, shard: int = 1) -> Call:
    return Call(task=task, id=f"id{number}", token=f"token{number}", arguments={"shard": shard})


def begin(store: ClockedStore, policy: Limit, of: Call) -> Decision:
    return policy.admitted(of, admit(store, of, [policy.admission(of)], 30).replies[0])


def test_policy_admits_as_many_of_one_key_as_it_may_and_defers_the_rest(clocked: ClockedStore, task: Any) -> None:
    policy = Limit("db:{shard}", 2)
    assert [begin(clocked, policy, call(task, number)) for number in (1, 2)] == [Admit(), Admit()]
    decision = begin(clocked, policy, call(task, 3))
    assert isinstance(decision, Defer)
    assert 0.5 <= decision.seconds <= 1.5
    assert begin(clocked, policy, call(task, 4, shard=2)) == Admit()
    first = call(task, 1)
    settle(clocked, first, [policy.settlement(first, Outcome.SUCCESS, None, 1)], Outcome.SUCCESS)
    assert begin(clocked, policy, call(task, 3)) == Admit()


def test_place_of_a_task_lasts_as_long_as_the_tasks_own_lease(clocked: ClockedStore, task: Any) -> None:
    policy = Limit("db", 1, on_full="fail")
    assert begin(clocked, policy, call(task, 1)) == Admit()
    clocked.advance(29_000)
    # What the worker's main process does for a living task: it renews the task's lease, and nothing else.
    clocked.client.hset(clocked.key("task", "id1"), "until", clocked.now_ms + 30_000)
    clocked.advance(29_000)
    decision = begin(clocked, policy, call(task, 2))
    assert isinstance(decision, Refuse)
    assert isinstance(decision.error, BulkheadFull)
    clocked.advance(1_001)
    assert begin(clocked, policy, call(task, 3)) == Admit()


def test_object_and_policy_of_one_name_share_places_also_when_the_object_is_left(
    clocked: ClockedStore, task: Any
) -> None:
    """The key lives as long as its longest holder needs: the object, of a short lease, does not shorten that."""
    policy = Limit("db", 2)
    assert begin(clocked, policy, call(task, 1)) == Admit()
    key = policy.admission(call(task, 1)).keys[0]
    before = clocked.client.pttl(key)
    for script in (scripts.TAKE, scripts.RENEW):
        arguments = [2, 1_000, 3_000] if script is scripts.TAKE else [1_000, 3_000]
        clocked.run(script, [key], ["object", *arguments])
    assert clocked.client.pttl(key) > before - 60_000 > 3_000


def test_wrong_options_are_named(store: Store, task: Any) -> None:
    for arguments, message in (
        (("db", 0), "bulkhead: limit: expected a whole number from 1"),
        (("", 1), "bulkhead: key: expected a text"),
        (("db", 1, "wait"), "bulkhead: on_full: expected one of defer, fail"),
    ):
        with pytest.raises(PolicyError, match=message):
            Limit(*arguments)
    with pytest.raises(PolicyError, match=r"names 'user'"):
        Limit("db:{user}", 1).bind(task)
    with pytest.raises(ValueError, match="limit must be a whole number of 1 or more, got 0"):
        Bulkhead(store, "db", 0)
    with pytest.raises(ValueError, match=r"lease_seconds must be 0\.3 to 3600"):
        Bulkhead(store, "db", 1, lease_seconds=0)
    with pytest.raises(ValueError, match="wait_seconds must be 0 or more"):
        Bulkhead(store, "db", 1, wait_seconds=-1)
