"""The fakes satisfy the ports and behave as their originals where tests rely on it."""

from __future__ import annotations

import asyncio

import pytest

from celery_operator.domain.errors import BrokerError, Conflict, Gone
from celery_operator.domain.messages import Claim
from celery_operator.services.ports import Broker, Clock, Cluster, Connections, ObjectKey, ResultBackend, WorkerAgents
from fakes.agents import FakeAgents, busy_worker, idle_worker
from fakes.brokers import FakeBroker, FakeConnections, FakeResultBackend
from fakes.clock import FakeClock
from fakes.cluster import FakeCluster

KEY = ObjectKey("default", "x")


def deployment(replicas: int = 1) -> dict[str, object]:
    return {"kind": "Deployment", "metadata": {"name": "x", "namespace": "default"}, "spec": {"replicas": replicas}}


def test_the_type_checker_accepts_each_fake_as_its_port() -> None:
    ports: tuple[Cluster, Broker, ResultBackend, Connections, WorkerAgents, Clock] = (
        FakeCluster(),
        FakeBroker(),
        FakeResultBackend(),
        FakeConnections(),
        FakeAgents(),
        FakeClock(),
    )
    assert len(ports) == 6


async def test_objects_go_in_and_out_as_copies() -> None:
    cluster = FakeCluster()
    mine = deployment()
    await cluster.create(mine)
    mine["spec"] = {"replicas": 9}
    read = await cluster.get("Deployment", KEY)
    assert read is not None
    read["spec"]["replicas"] = 7
    again = await cluster.get("Deployment", KEY)
    assert again is not None
    assert again["spec"] == {"replicas": 1}


async def test_an_outdated_version_conflicts_and_a_missing_object_is_gone() -> None:
    cluster = FakeCluster(deployment())
    version = cluster.must("Deployment", "x")["metadata"]["resourceVersion"]
    scaled = await cluster.scale(KEY, 3, resource_version=version)
    assert (scaled["spec"]["replicas"], scaled["metadata"]["generation"]) == (3, 2)
    with pytest.raises(Conflict):
        await cluster.scale(KEY, 4, resource_version=version)
    with pytest.raises(Conflict):
        await cluster.create(deployment())
    with pytest.raises(Conflict):
        await cluster.apply(
            {**deployment(), "metadata": {"name": "x", "namespace": "default", "resourceVersion": version}}
        )
    await cluster.delete("Deployment", KEY)
    with pytest.raises(Gone):
        await cluster.scale(KEY, 4, resource_version=version)


async def test_applying_the_same_keeps_the_generation() -> None:
    cluster = FakeCluster()
    first, second = await cluster.apply(deployment(2)), await cluster.apply(deployment(2))
    third = await cluster.apply(deployment(3))
    assert [each["metadata"]["generation"] for each in (first, second, third)] == [1, 1, 2]


async def test_a_broker_in_trouble_answers_nothing_and_an_unknown_queue_is_empty() -> None:
    broker = FakeBroker()
    assert await broker.waiting(["a"]) == {"a": 0}
    broker.error = BrokerError("refused")
    with pytest.raises(BrokerError):
        await broker.waiting(["a"])


async def test_a_worker_that_runs_a_task_is_drained_only_when_it_has_finished() -> None:
    agents = FakeAgents(token="right")
    agents.states = {"idle": idle_worker(), "busy": busy_worker()}
    assert await agents.drain("idle", "wrong") is None
    states = await asyncio.gather(agents.drain("idle", "right"), agents.drain("busy", "right"))
    assert [state is not None and state.drained for state in states] == [True, False]
    agents.take("busy", 0)
    assert agents.states["busy"].drained
    assert await agents.state("nowhere") is None


async def test_only_what_was_never_begun_or_whose_lease_is_over_can_be_abandoned() -> None:
    backend = FakeResultBackend()
    backend.claimed = {"running": Claim("running"), "dead": Claim("running", lease_over=True)}
    assert await backend.abandon(["running", "dead", "new"]) == {"dead", "new"}
