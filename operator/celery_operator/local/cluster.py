"""The Cluster port on one machine: objects in memory, Deployments as real worker processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from celery_operator.local.deployments import Deployments
from celery_operator.local.hosts import HostMap
from celery_operator.local.node import Node
from celery_operator.local.objects import EventType, ObjectStore, Watcher
from celery_operator.services.ports import Clock, EventRecord, Manifest, ObjectKey

CLOSE_SECONDS = 5.0
"""How long workers get to end what they run when the local cluster is closed."""


class LocalCluster:
    """Satisfies ``services.ports.Cluster``. Use it as an async context manager: nothing outlives the block."""

    def __init__(
        self, clock: Clock, directory: Path, hosts: HostMap | None = None, *, working_directory: Path | None = None
    ) -> None:
        """``directory`` takes logs and volumes; workers run in ``working_directory`` (default: this process' own)."""
        self.store = ObjectStore(clock)
        self.store.watch(self._collect)
        self.node = Node(self.store, clock, directory, hosts or HostMap(), working_directory=working_directory)
        self._deployments = Deployments(self.store, self.node, clock)
        self._on_event: list[Callable[[EventRecord], None]] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to run Deployments."""
        self._task = asyncio.create_task(self._deployments.run(), name="deployments")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all workers; returns when the last process is gone."""
        await self.close(CLOSE_SECONDS)

    async def close(self, grace_seconds: float) -> None:
        """Start no more workers, and end those that run: SIGTERM, and SIGKILL after ``grace_seconds``."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self.node.close(grace_seconds)

    def watch(self, watcher: Watcher) -> None:
        """Call the watcher for every change of every object from now on."""
        self.store.watch(watcher)

    def on_event(self, listener: Callable[[EventRecord], None]) -> None:
        """Call the listener for every Event from now on."""
        self._on_event.append(listener)

    # ------------------------------------------------------------------------------------------------------ the port

    async def get(self, kind: str, key: ObjectKey) -> Manifest | None:
        """Return an object; None if there is none."""
        return self.store.get(kind, key)

    async def apply(self, manifest: Manifest) -> Manifest:
        """Create or update an object as server-side apply does."""
        return self.store.apply(manifest)

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object. Raises Conflict if it exists."""
        return self.store.create(manifest)

    async def delete(self, kind: str, key: ObjectKey) -> None:
        """Delete an object, and then what it owns; nothing happens if it is gone."""
        self._delete(kind, key)

    async def scale(self, key: ObjectKey, replicas: int, *, resource_version: str) -> Manifest:
        """Set a Deployment's replicas if it still has this resourceVersion. Raises Conflict, Gone."""
        deployment = self.store.at_version("Deployment", key, resource_version)
        deployment["spec"]["replicas"] = replicas
        return self.store.replace("Deployment", key, deployment)

    async def pods(self, namespace: str, labels: Mapping[str, str]) -> tuple[Manifest, ...]:
        """Return the pods with all these labels, those being deleted included, sorted by name."""
        return tuple(
            pod
            for pod in self.store.list("Pod", namespace)
            if labels.items() <= pod["metadata"].get("labels", {}).items()
        )

    async def annotate_pod(self, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        """Set (or with None remove) a pod's annotations; nothing happens if it is gone."""

        def edit(pod: Manifest) -> None:
            merged = {**pod["metadata"].get("annotations", {}), **annotations}
            pod["metadata"]["annotations"] = {name: value for name, value in merged.items() if value is not None}

        self.store.change("Pod", key, edit)

    async def write_status(
        self, kind: str, key: ObjectKey, status: Mapping[str, Any], *, resource_version: str
    ) -> Manifest:
        """Replace the status of an object if it has this resourceVersion. Raises Conflict, Gone."""
        manifest = self.store.at_version(kind, key, resource_version)
        manifest["status"] = dict(status)
        return self.store.replace(kind, key, manifest)

    async def record(self, event: EventRecord) -> None:
        """Hand an Event to the listeners."""
        for listener in self._on_event:
            listener(event)

    # -------------------------------------------------------------------------------------------- garbage collection

    def _delete(self, kind: str, key: ObjectKey) -> None:
        manifest = self.store.get(kind, key)
        if manifest is None:
            return
        if kind == "Pod" or manifest["metadata"].get("finalizers"):
            self.store.mark_deleted(kind, key)  # the node, or whoever set the finalizer, does the rest
        else:
            self.store.remove(kind, key)

    def _collect(self, kind: str, event: EventType, manifest: Manifest) -> None:
        """End pods that are deleted, and delete what a deleted object owned."""
        metadata = manifest["metadata"]
        if kind == "Pod" and "deletionTimestamp" in metadata:
            self.node.end(manifest)
        if event == "DELETED":
            for owned_kind, owned_key in self.store.owned_by(metadata["uid"]):
                self._delete(owned_kind, owned_key)
