"""A reconciler of pools with everything around it: a simulated cluster, a broker, workers' agents and a clock."""

from __future__ import annotations

from typing import Any

from celery_operator.services.apps import AppResolver
from celery_operator.services.guarded import GuardedQueues
from celery_operator.services.pools import PoolReconciler
from celery_operator.services.ports import ObjectKey
from fakes.agents import FakeAgents
from fakes.brokers import FakeConnections
from fakes.clock import FakeClock
from fakes.cluster import FakeCluster
from fakes.kubernetes import FakeKubernetes
from fakes.pools import BROKER_URL, pool_manifest

SCALING = {"minReplicas": 0, "maxReplicas": 5, "idleTimeoutSeconds": 90}
KEY = ObjectKey("default", "etl")
TOKEN = ObjectKey("default", "etl-agent-token")


class Stage:
    """A reconciler with everything around it."""

    def __init__(self, *objects: dict[str, Any], **spec: Any) -> None:
        self.cluster = FakeCluster(pool_manifest(**spec), *objects)
        self.connections = FakeConnections()
        self.broker = self.connections.broker(BROKER_URL)
        self.agents = FakeAgents()
        self.clock = FakeClock()
        self.guarded = GuardedQueues()
        self.kubernetes = FakeKubernetes(self.cluster, self.agents, "etl-worker")
        self.reconciler = self.restarted()

    def restarted(self) -> PoolReconciler:
        return PoolReconciler(
            cluster=self.cluster,
            connections=self.connections,
            agents=self.agents,
            apps=AppResolver(self.cluster),
            clock=self.clock,
            worker_image="bundled",
            guarded=self.guarded,
        )

    async def reconcile(self) -> float:
        return (await self.reconciler.reconcile(self.cluster.must("CeleryWorkerPool", "etl"))).total_seconds()

    async def pass_seconds(self, seconds: float) -> None:
        """Let the pool be looked at, and Kubernetes act, for a while."""
        end = self.clock.passed.total_seconds() + seconds
        while self.clock.passed.total_seconds() < end:
            delay = await self.reconcile()
            assert 0 < delay <= 10
            self.kubernetes.settle()
            self.clock.advance(delay)

    def change(self, **spec: Any) -> None:
        """Change the spec as a user would."""
        manifest = self.cluster.must("CeleryWorkerPool", "etl")
        manifest["spec"] |= spec
        manifest["metadata"]["generation"] += 1
        self.cluster.put(manifest)

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.cluster.must("CeleryWorkerPool", "etl")["status"])

    def condition(self, kind: str) -> tuple[str, str]:
        [found] = [each for each in self.status["conditions"] if each["type"] == kind]
        return found["status"], found["reason"]

    def message(self, kind: str) -> str:
        [found] = [each for each in self.status["conditions"] if each["type"] == kind]
        return str(found["message"])

    @property
    def replicas(self) -> int:
        return int(self.cluster.must("Deployment", "etl-worker")["spec"]["replicas"])

    def warnings(self) -> list[str]:
        return [event.reason for event in self.cluster.events if event.type == "Warning"]

    def normal_events(self) -> list[str]:
        return [event.reason for event in self.cluster.events if event.type == "Normal"]
