"""A task that Celery itself retries outlives the broker's data and the worker that held its next message."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.connections import CeleryConnections
from celery_operator.services.apps import AppResolver
from celery_operator.services.workflows.engine import WorkflowEngine
from celery_operator.services.workflows.unseen import UNSEEN_AFTER
from celery_patterns import protocol
from fakes.cluster import FakeCluster
from local.support import until
from servers import RedisServer, Worker, celery_worker, redis_server

pytestmark = pytest.mark.timeout(240)

APPS = Path(__file__).parent / "apps"
LEDGER, LEDGER_DB, RESULT_DB = "retries", 5, 1
COUNTDOWN = 4.0
"""Seconds: long enough to lose everything in between."""
WITHIN = 90.0
"""Seconds until a run has ended: sweeps look seldom while nothing happens, and the machine may be loaded."""


@pytest.fixture
def broker() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def results() -> Iterator[RedisServer]:
    """Results, claims and the ledger: what is kept."""
    with redis_server() as server:
        yield server


class Run:
    """One workflow of one task, followed by a real engine."""

    def __init__(self, broker: RedisServer, results: RedisServer, *, last: int, countdown: float = COUNTDOWN) -> None:
        self.broker, self.results = broker, results
        self.uid = str(uuid.uuid4())
        args = [{"value": value} for value in (LEDGER, last, countdown)]
        connection = {"broker": {"url": broker.url(0)}, "resultBackend": {"url": results.url(RESULT_DB)}}
        self.cluster = FakeCluster()
        self.manifest = self.cluster.put(
            {
                "apiVersion": "celery-operator.dev/v1alpha1",
                "kind": "CeleryWorkflow",
                "metadata": {"name": "w", "namespace": "default", "uid": self.uid},
                "spec": {
                    "app": {"connection": connection},
                    "chain": [{"task": {"name": "test.retry_until", "args": args}}],
                    "outputs": [{"name": "result", "valueFrom": {"result": "$"}}],
                },
            }
        )

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Let an operator follow it."""
        clock = SystemClock()
        connections = CeleryConnections(clock)
        engine = WorkflowEngine(
            cluster=self.cluster, connections=connections, apps=AppResolver(self.cluster), clock=clock
        )
        engine.observe(self.cluster.must("CeleryWorkflow", "w"))
        try:
            yield
        finally:
            await engine.close()
            await connections.close_all()

    def worker(self) -> Any:
        """Start a worker; in a thread, since the engine goes on meanwhile."""
        env = {"LEDGER_URL": self.results.url(LEDGER_DB)}
        return celery_worker(
            broker=self.broker.url(0),
            backend=self.results.url(RESULT_DB),
            app="retrying:app",
            python_path=APPS,
            env=env,
            wait_ready=False,
        )

    def claim(self, retries: int) -> dict[bytes, bytes]:
        """Return the claim on one of Celery's retries."""
        with self.results.client(RESULT_DB) as client:
            found: Any = client.hgetall(protocol.claim_key(protocol.task_id(self.uid, 1, "s0", 0, 1), retries))
        return dict(found)

    def ran(self) -> list[int]:
        """Return which of Celery's retries began, in order."""
        with self.results.client(LEDGER_DB) as client:
            found: Any = client.lrange(LEDGER, 0, -1)
        return [int(each) for each in found]

    def status(self) -> dict[str, Any]:
        """Return what the operator shows."""
        return dict(self.cluster.must("CeleryWorkflow", "w").get("status") or {})

    def ended(self) -> tuple[str, str] | None:
        """Return how it ended, if it has."""
        found = [each for each in self.status().get("conditions", []) if each["type"] == "Succeeded"]
        return (found[0]["status"], found[0]["reason"]) if found and found[0]["status"] != "Unknown" else None

    async def lose(self, worker: Worker) -> None:
        """Lose the broker's data, and the worker that holds the message of the next retry."""
        with self.broker.client() as client:
            client.flushall()
        await asyncio.to_thread(worker.kill)


async def test_a_retry_that_nobody_has_any_more_runs_when_it_is_due(broker: RedisServer, results: RedisServer) -> None:
    run = Run(broker, results, last=2)
    async with run.followed():
        with run.worker() as first:
            await until(lambda: run.claim(0).get(b"state") == b"done", within=WITHIN, what=first.log())
            await run.lose(first)
        with run.worker() as second:
            await until(run.ended, within=WITHIN, what=f"{run.status()} {run.ran()}\n{second.log()}")
    assert run.ended() == ("True", "Completed")
    assert run.status()["outputs"] == [{"name": "result", "value": 2}]
    assert run.ran() == [0, 1, 2]


async def test_a_successor_of_the_operator_finds_it_too(broker: RedisServer, results: RedisServer) -> None:
    """The retry comes due while nobody follows: what was remembered of it in memory is gone."""
    run = Run(broker, results, last=1)
    with run.worker() as first:
        async with run.followed():
            await until(lambda: run.claim(0).get(b"state") == b"done", within=WITHIN, what=first.log())
            await until(run.status, within=WITHIN)
        await run.lose(first)
    async with run.followed():
        with run.worker() as second:
            await until(run.ended, within=WITHIN, what=f"{run.status()} {run.ran()}\n{second.log()}")
    assert run.ended() == ("True", "Completed")
    assert run.ran() == [0, 1]


async def test_a_retry_that_is_held_by_a_living_worker_is_left_to_it(broker: RedisServer, results: RedisServer) -> None:
    """Its queue is empty and nobody has begun it for longer than a lost message may take: it is not due."""
    run = Run(broker, results, last=1, countdown=3 * UNSEEN_AFTER.total_seconds())
    async with run.followed():
        with run.worker() as worker:
            await until(run.ended, within=WITHIN, what=worker.log())
            assert "is a duplicate" not in worker.log()
    assert run.ended() == ("True", "Completed")
    assert run.ran() == [0, 1]
