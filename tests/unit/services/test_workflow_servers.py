"""A run whose servers stop to answer goes on with those that its application names by then: a new password, say."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from typing_extensions import override

from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import BrokerError, ResultBackendError
from celery_operator.services.ports import ObjectKey
from fakes.workers import SimulatedWorkers
from unit.services.test_workflow_engine import CHAIN, World, add, task, workflow

OLD, NEW = "redis://:old@r:6379", "redis://:new@r:6379"
APP = {
    "connection": {
        "broker": {"urlFrom": {"secretKeyRef": {"name": "servers", "key": "broker"}}},
        "resultBackend": {"urlFrom": {"secretKeyRef": {"name": "servers", "key": "backend"}}},
    }
}


class Rotated(SimulatedWorkers):
    """One pair of servers, which take the new password instead of the old one from some moment on."""

    def __init__(self) -> None:
        super().__init__(add=add)
        self.password = "old"
        self.refusals = 0

    @override
    def broker(self, url: str) -> Any:
        return _Connection(self, url)

    @override
    def result_backend(self, url: str) -> Any:
        return _Connection(self, url)


class _Connection:
    """A broker and result backend by one URL; each method asks for the password first."""

    def __init__(self, workers: Rotated, url: str) -> None:
        self._workers = workers
        self._url = url

    def __getattr__(self, name: str) -> Any:
        refused = ResultBackendError if name in ("read", "claims", "abandon", "check") else BrokerError
        if name == "announcements" or f":{self._workers.password}@" in self._url:
            return getattr(self._workers, name)

        async def refuse(*_: Any) -> Any:
            self._workers.refusals += 1
            raise refused("wrong password", Reason.AUTHENTICATION_FAILED)

        return refuse


@asynccontextmanager
async def rotated() -> AsyncIterator[tuple[World, Rotated]]:
    workers = Rotated()
    it = World(workers)
    put_secret(it, OLD)
    yield it, workers
    await it.engine.close()


def put_secret(it: World, url: str) -> None:
    data = {name: base64.b64encode(f"{url}/{db}".encode()).decode() for name, db in (("broker", 0), ("backend", 1))}
    it.cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": _named("servers"), "data": data})


def _named(name: str) -> dict[str, str]:
    return {"name": name, "namespace": "default", "uid": name}


async def test_a_run_in_the_middle_takes_the_new_password_and_runs_nothing_twice() -> None:
    async with rotated() as (it, workers):
        workers.paused = True
        it.apply(workflow(app=APP, **CHAIN))
        await it.until(lambda: len(workers.queue) == 1 and bool(it.status))
        workers.password = "new"
        workers.run(workers.queue.pop(0))
        workers.paused = False
        await it.until(lambda: it.condition("BrokerReachable")[0] == "False", within=10)
        put_secret(it, NEW)
        it.clock.ahead += timedelta(seconds=5)
        assert await it.ended(within=15) == ("True", "Completed")
        assert it.status["outputs"] == [{"name": "result", "value": 118}]
        assert set(workers.starts.values()) == {1}
        assert it.condition("BrokerReachable")[0] == "True"


@pytest.mark.parametrize("named", ["missing", "unreadable"])
async def test_a_run_waits_for_its_servers_while_its_application_names_none(named: str) -> None:
    async with rotated() as (it, workers):
        workers.paused = True
        it.apply(workflow(app=APP, **CHAIN))
        await it.until(lambda: len(workers.queue) == 1 and bool(it.status))
        workers.password = "new"
        await it.until(lambda: it.condition("ResultBackendReachable")[0] == "False", within=10)
        if named == "missing":
            await it.cluster.delete("Secret", ObjectKey("default", "servers"))
        else:
            put_secret(it, "no url")
        it.clock.ahead += timedelta(seconds=5)
        refused = workers.refusals
        await it.until(lambda: workers.refusals >= refused + 2, within=10)
        assert it.condition("Succeeded")[0] == "Unknown"
        workers.password, workers.paused = "old", False
        workers.run_all()
        assert await it.ended(within=15) == ("True", "Completed")
        assert set(workers.starts.values()) == {1}


async def test_a_run_stays_with_servers_that_answer_whatever_its_application_names() -> None:
    """What runs, and its claims, are theirs: on others it would be run again."""
    async with rotated() as (it, workers):
        workers.paused = True
        it.apply(workflow(app=APP, chain=[task("add", 1, 1)]))
        await it.until(lambda: len(workers.queue) == 1 and bool(it.status))
        put_secret(it, NEW)
        it.clock.ahead += timedelta(seconds=60)
        workers.paused = False
        workers.run_all()
        assert await it.ended(within=15) == ("True", "Completed")
