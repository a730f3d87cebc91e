"""Policies in every kind of worker: with the agent and its guard, and in pools without processes."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from celery_patterns import protocol
from patterns.tasks import shop
from patterns.tasks.conftest import LEDGER, RESULTS, TESTS, StartWorker
from servers import RedisServer, celery_worker, rabbitmq_server

Ledger = Callable[..., list[dict[str, Any]]]
WaitStart = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent", "eventlet"])
def test_promises_hold_in_pools_without_processes(
    start_worker: StartWorker, ledger: Ledger, key: str, pool: str
) -> None:
    """The lease outlasts a run that is longer than it, and duplicates get the one result."""
    with start_worker(queues=key, pool=pool, concurrency=2) as worker:
        options: dict[str, Any] = {"queue": key}
        results = [shop.charge.apply_async([key, 2 * shop.LEASE_SECONDS], **options) for _ in range(3)]
        assert [result.get(timeout=60) for result in results] == [{"order": key, "paid": True}] * 3, worker.log()
        assert [entry["event"] for entry in ledger(key)] == ["start", "finish"]
        crawl = shop.crawl.apply_async([50], {"fail_at": 30}, **options)
        assert crawl.get(timeout=60) == {"begin": 30, "deliveries": 2}


def test_with_the_agent_a_workflows_task_may_be_deferred_and_retried(
    start_worker: StartWorker, ledger: Ledger, wait_start: WaitStart, key: str
) -> None:
    """The agent's guard drops second deliveries of an attempt; one that a policy sent away is none."""
    uid = str(uuid.uuid4())

    def headers(index: int) -> dict[str, Any]:
        identity = protocol.TaskIdentity(uid=uid, run=1, step="charge", index=index, attempt=1, values_inline=True)
        return {"headers": {protocol.TASK_HEADER: identity.to_header()}, "task_id": identity.task_id, "queue": key}

    with start_worker(queues=key, concurrency=2, agent=True) as worker:
        first = shop.charge.apply_async([key, 0.8], **headers(0))
        wait_start(key)
        second = shop.charge.apply_async([key], **headers(1))
        assert first.get(timeout=60) == second.get(timeout=60) == {"order": key, "paid": True}, worker.log()
        assert len(ledger(key, "start")) == 1
        again = shop.crawl.apply_async([20], {"fail_at": 10}, **headers(2))
        assert again.get(timeout=60) == {"begin": 10, "deliveries": 2}, worker.log()


def test_a_lost_process_costs_an_attempt_and_deferrals_do_not(
    start_worker: StartWorker, wait_start: WaitStart, key: str
) -> None:
    """Deferred first, then killed in its first run: its one retry is still there."""
    with start_worker(queues=key, concurrency=2) as worker:
        holder = shop.strict_report.apply_async([key, 1.2], queue=key)
        wait_start(key)
        victim = shop.strict_report.apply_async([key, 0.0], {"kill": True}, queue=key)
        assert holder.get(timeout=60) == {"attempt": 1, "deferred": False}
        assert victim.get(timeout=60) == {"attempt": 2, "deferred": True}, worker.log()


def test_on_rabbitmq_with_results_in_redis_all_is_the_same(ledger: Ledger, redis: RedisServer, key: str) -> None:
    """Only the store has to be Redis; deferrals wait in the worker or in RabbitMQ."""
    with rabbitmq_server() as rabbit:
        env = {"LEDGER_URL": redis.url(LEDGER), "SHOP_PLAIN_BROKER": "1"}
        with (
            celery_worker(
                broker=rabbit.url(),
                backend=redis.url(RESULTS),
                env=env,
                concurrency=2,
                agent=False,
                app="patterns.tasks.shop:app",
                python_path=TESTS,
            ),
            shop.app.connection_for_write(rabbit.url()) as connection,
            shop.app.amqp.Producer(connection) as producer,
        ):
            results = [shop.charge.apply_async([key, 0.2], producer=producer) for _ in range(3)]
            assert [result.get(timeout=60) for result in results] == [{"order": key, "paid": True}] * 3
            assert len(ledger(key, "start")) == 1
