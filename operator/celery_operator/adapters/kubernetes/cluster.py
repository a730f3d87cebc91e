"""The port ``Cluster`` on the Kubernetes API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from celery_operator.adapters.kubernetes.connection import APPLY, JSON_PATCH, MERGE_PATCH, ApiConnection
from celery_operator.adapters.kubernetes.events import EventWriter
from celery_operator.adapters.kubernetes.resources import RESOURCES, resource_of
from celery_operator.domain.errors import Gone
from celery_operator.services.ports import Clock, EventRecord, Manifest, ObjectKey

FIELD_MANAGER = "celery-operator"
_MANAGED = f"fieldManager={FIELD_MANAGER}"
_APPLIED = f"{_MANAGED}&force=true"


class KubernetesCluster:
    """The port ``Cluster``.

    Args:
        api: A connection; closing it remains the caller's matter.
        clock: For the times in events.
        instance: Who reports events: the operator's pod.
    """

    def __init__(self, api: ApiConnection, *, clock: Clock, instance: str) -> None:
        self._api = api
        self._events = EventWriter(api, clock, instance)

    async def get(self, kind: str, key: ObjectKey) -> Manifest | None:
        """See the port."""
        try:
            return await self._api.request("GET", resource_of(kind).path(key))
        except Gone:
            return None

    async def apply(self, manifest: Manifest) -> Manifest:
        """See the port. Raises Gone if the namespace is."""
        path = resource_of(manifest["kind"]).path(_key(manifest))
        return await self._api.request("PATCH", path, query=_APPLIED, body=manifest, content_type=APPLY)

    async def create(self, manifest: Manifest) -> Manifest:
        """See the port. Raises Gone if the namespace is."""
        path = resource_of(manifest["kind"]).collection(_key(manifest).namespace)
        return await self._api.request("POST", path, query=_MANAGED, body=manifest, idempotent=False)

    async def delete(self, kind: str, key: ObjectKey) -> None:
        """See the port."""
        try:
            await self._api.request("DELETE", resource_of(kind).path(key), body={"propagationPolicy": "Background"})
        except Gone:
            return

    async def scale(self, key: ObjectKey, replicas: int, *, resource_version: str) -> Manifest:
        """See the port.

        A merge patch of the Deployment itself, not of its scale subresource: the answer is the Deployment, and the
        update takes the field away from whoever applied it, so that a later apply without replicas leaves it alone.
        """
        body = {"metadata": {"resourceVersion": resource_version}, "spec": {"replicas": replicas}}
        path = RESOURCES["Deployment"].path(key)
        return await self._api.request("PATCH", path, query=_MANAGED, body=body, content_type=MERGE_PATCH)

    async def pods(self, namespace: str, labels: Mapping[str, str]) -> tuple[Manifest, ...]:
        """See the port."""
        selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        path = RESOURCES["Pod"].collection(namespace)
        answer = await self._api.request("GET", path, query=urlencode({"labelSelector": selector}))
        return tuple(sorted(answer.get("items") or (), key=lambda pod: str(pod["metadata"]["name"])))

    async def annotate_pod(self, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        """See the port."""
        body = {"metadata": {"annotations": dict(annotations)}}
        path = RESOURCES["Pod"].path(key)
        try:
            await self._api.request("PATCH", path, query=_MANAGED, body=body, content_type=MERGE_PATCH)
        except Gone:
            return

    async def write_status(
        self, kind: str, key: ObjectKey, status: Mapping[str, Any], *, resource_version: str
    ) -> Manifest:
        """See the port.

        A JSON patch: ``add`` replaces the whole status, whatever was in it. A merge patch would leave keys that
        vanished unless they were known and set to null; a PUT needs the whole object to be sent. Replacing
        metadata.resourceVersion by the one that was read makes the API server refuse with 409 if it is not the
        current one; a failed ``test`` would come as 422, like any invalid status.
        """
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "add", "path": "/status", "value": status},
        ]
        path = f"{resource_of(kind).path(key)}/status"
        return await self._api.request("PATCH", path, query=_MANAGED, body=patch, content_type=JSON_PATCH)

    async def record(self, event: EventRecord) -> None:
        """See the port."""
        self._events.put(event)

    async def close(self) -> None:
        """Write the last events."""
        await self._events.close()


def _key(manifest: Manifest) -> ObjectKey:
    metadata = manifest["metadata"]
    return ObjectKey(metadata["namespace"], metadata["name"])
