"""Publishing and running: what a pattern task costs more than a plain one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.patterns.apps import costs
from benchmarks.patterns.handles import let_go
from benchmarks.patterns.programs import CHECKOUT
from benchmarks.patterns.proxy import counting_proxy
from benchmarks.series import in_turns, summary
from celery_patterns.store.settings import ENV_URL
from servers import RedisServer, Worker, celery_worker, redis_server

APP = "benchmarks.patterns.apps.costs:app"
BROKER, RESULTS, STORE = 0, 1, 2
ANSWER_SECONDS = 60.0
GAP_SECONDS = 0.004
"""Between two rounds: tasks are measured one by one, not while a backlog keeps the worker's main process busy."""
WARM_UP = 50

Say = Callable[[str], None]


@contextmanager
def open_stage() -> Iterator[RedisServer]:
    """Start a Redis to which this process publishes; once in a process, since an application connects for good."""
    with redis_server() as redis:
        costs.app.conf.update(
            broker_url=redis.url(BROKER), result_backend=redis.url(RESULTS), patterns_store_url=redis.url(STORE)
        )
        try:
            yield redis
        finally:
            let_go(costs.app)


def measure_publishing(redis: RedisServer, rounds: int, say: Say) -> dict[str, Any]:
    """Return the milliseconds of one ``delay``: plain, as a pattern task without policies, and as a singleton."""
    actions: dict[str, Callable[[int], object]] = {
        "plain": lambda number: costs.plain.delay(number, number),
        "unguarded": lambda number: costs.unguarded.delay(number, number),
        "single": lambda number: costs.single.delay(number, number),
    }
    in_turns(WARM_UP, actions)
    with redis.client(STORE) as client:
        client.flushdb()  # the singletons of the warm-up still wait
    spent = in_turns(rounds, actions)
    costs.app.control.purge()  # nobody is to run these
    found = {name: summary(times) for name, times in spent.items()}
    pairs = zip(spent["unguarded"], spent["plain"], strict=True)
    found["unguarded"]["p50_of_differences"] = round(statistics.median(ours - bare for ours, bare in pairs), 4)
    say(f"publishing, p50: plain {found['plain']['p50']:.3f} ms, pattern task {found['unguarded']['p50']:.3f} ms")
    return found


def measure_policies(redis: RedisServer, rounds: int, say: Say) -> dict[str, Any]:
    """Return the milliseconds that the task's process spends on a task, and the round trips of one under policies."""
    with _worker(redis, redis.url(STORE)):
        _run(WARM_UP)
        spent = _run(rounds)
    with counting_proxy(redis.port) as counter, _worker(redis, counter.url(STORE)):
        _run(WARM_UP)
        before = counter.trips
        _run(rounds)
        trips = (counter.trips - before) / rounds
    found: dict[str, Any] = {name: summary([wall for wall, _ in times]) for name, times in spent.items()}
    for name, times in spent.items():
        found[name]["cpu_p50"] = round(statistics.median(cpu for _, cpu in times), 4)
    found["round_trips"] = round(trips, 3)
    say(
        f"running, p50: plain {found['plain']['p50']:.3f} ms, without policies {found['unguarded']['p50']:.3f} ms, "
        f"with four {found['guarded']['p50']:.3f} ms in {trips:.2f} round trips"
    )
    return found


@contextmanager
def _worker(redis: RedisServer, store: str) -> Iterator[Worker]:
    options: dict[str, Any] = {"app": APP, "agent": False, "env": {ENV_URL: store}, "python_path": CHECKOUT}
    with celery_worker(broker=redis.url(BROKER), backend=redis.url(RESULTS), **options) as worker:
        yield worker


def _run(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Run each task so often; returns milliseconds of the clock and of the processor by name."""
    first = time.time_ns() // 1000  # no key is used twice on one server
    for number in range(first, first + rounds):
        for task in (costs.plain, costs.unguarded, costs.guarded):
            task.delay(number, number)
        time.sleep(GAP_SECONDS)
    spent: dict[str, list[tuple[float, float]]] = costs.timings.delay().get(timeout=ANSWER_SECONDS)
    missing = {name: len(times) for name, times in spent.items() if len(times) != rounds}
    if missing or len(spent) != 3:
        raise AssertionError(f"expected {rounds} runs of each task, got {missing or sorted(spent)}")
    return spent
