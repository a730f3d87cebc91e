"""A cluster that is written to only by the leader.

A process may be stopped at any moment and continue after its lease went to another: what it then wants to write was
decided long ago. Resource versions refuse most of that; this refuses the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery_operator.domain.errors import ClusterError
from celery_operator.services.ports import Cluster, EventRecord, Manifest, ObjectKey


class FencedCluster:
    """The port ``Cluster``: reads always, writes only while ``leads()`` is true. Raises ClusterError otherwise."""

    def __init__(self, cluster: Cluster, leads: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._leads = leads

    def _check(self) -> None:
        if not self._leads():
            raise ClusterError("this process does not lead any more, so it writes nothing")

    async def get(self, kind: str, key: ObjectKey) -> Manifest | None:
        """See the port."""
        return await self._cluster.get(kind, key)

    async def apply(self, manifest: Manifest) -> Manifest:
        """See the port."""
        self._check()
        return await self._cluster.apply(manifest)

    async def create(self, manifest: Manifest) -> Manifest:
        """See the port."""
        self._check()
        return await self._cluster.create(manifest)

    async def delete(self, kind: str, key: ObjectKey) -> None:
        """See the port."""
        self._check()
        await self._cluster.delete(kind, key)

    async def scale(self, key: ObjectKey, replicas: int, *, resource_version: str) -> Manifest:
        """See the port."""
        self._check()
        return await self._cluster.scale(key, replicas, resource_version=resource_version)

    async def pods(self, namespace: str, labels: Mapping[str, str]) -> tuple[Manifest, ...]:
        """See the port."""
        return await self._cluster.pods(namespace, labels)

    async def annotate_pod(self, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        """See the port."""
        self._check()
        await self._cluster.annotate_pod(key, annotations)

    async def write_status(
        self, kind: str, key: ObjectKey, status: Mapping[str, Any], *, resource_version: str
    ) -> Manifest:
        """See the port."""
        self._check()
        return await self._cluster.write_status(kind, key, status, resource_version=resource_version)

    async def record(self, event: EventRecord) -> None:
        """See the port."""
        if self._leads():
            await self._cluster.record(event)
