"""Looks at every pool twice a second, for those who watch: the status that the operator writes is not that fresh."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from celery_operator.api.worker_pool import CeleryWorkerPool
from celery_operator.domain.errors import CeleryOperatorError
from celery_operator.domain.pools import naming
from celery_operator.domain.pools.observation import observed_pod
from celery_operator.local.deployments import is_leaving, is_ready
from celery_operator.local.objects import EventType, ObjectStore, key_of
from celery_operator.services.apps import AppResolver
from celery_operator.services.ports import Connections, Manifest, ObjectKey, WorkerAgents

LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PoolGauge:
    """One look at a pool."""

    desired: int
    ready: int
    busy: int = 0
    slots: int = 0
    waiting: int | None = None
    """None: the broker did not answer."""


class PoolGauges:
    """What was seen of each pool, oldest first, one look every LOOK_SECONDS."""

    def __init__(self, store: ObjectStore, connections: Connections, agents: WorkerAgents, apps: AppResolver) -> None:
        self._store = store
        self._connections = connections
        self._agents = agents
        self._apps = apps
        self.looked = asyncio.Event()
        """Set after every look."""
        self.history: dict[ObjectKey, list[PoolGauge]] = {}
        self.course: dict[ObjectKey, list[int]] = {}
        """Ready workers whenever their number changed, seen as it happens."""
        store.watch(self._observe)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            for manifest in self._store.list("CeleryWorkerPool"):
                key = key_of(manifest)
                self.history.setdefault(key, []).append(await self._look(key, manifest))
            self.looked.set()
            await asyncio.sleep(LOOK_SECONDS)

    def _observe(self, kind: str, _event: EventType, manifest: Manifest) -> None:
        pool = manifest["metadata"].get("labels", {}).get(naming.LABEL_POOL)
        if kind != "Pod" or pool is None:
            return
        key = ObjectKey(manifest["metadata"]["namespace"], pool)
        ready = sum(1 for pod in pods_of_pool(self._store, key) if is_ready(pod))
        course = self.course.setdefault(key, [0])
        if course[-1] != ready:
            course.append(ready)

    async def _look(self, key: ObjectKey, manifest: Manifest) -> PoolGauge:
        deployment = self._store.get("Deployment", ObjectKey(key.namespace, naming.deployment_name(key.name)))
        if deployment is None:
            return PoolGauge(0, 0, waiting=await self._waiting(key, manifest))
        pods = pods_of_pool(self._store, key)
        addresses = [observed_pod(pod).address for pod in pods if is_ready(pod)]
        states = await asyncio.gather(*(self._agents.state(address) for address in addresses if address))
        return PoolGauge(
            desired=int(deployment["spec"]["replicas"]),
            ready=sum(1 for pod in pods if is_ready(pod)),
            busy=sum(state.active for state in states if state),
            slots=sum(state.slots for state in states if state),
            waiting=await self._waiting(key, manifest),
        )

    async def _waiting(self, key: ObjectKey, manifest: Manifest) -> int | None:
        spec = CeleryWorkerPool.model_validate({"spec": manifest["spec"]}).spec
        try:
            app = await self._apps.resolve(key.namespace, spec.app_ref, spec.app)
            waiting = await self._connections.broker(app.broker_url).waiting([queue.name for queue in spec.queues])
        except CeleryOperatorError:
            return None
        return sum(waiting.values())


def pods_of_pool(store: ObjectStore, key: ObjectKey) -> list[Manifest]:
    """Return the pool's pods that are not being deleted."""
    labels = naming.pool_labels(key.name).items()
    return [
        pod
        for pod in store.list("Pod", key.namespace)
        if labels <= pod["metadata"]["labels"].items() and not is_leaving(pod)
    ]
