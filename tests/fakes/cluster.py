"""Objects in memory, with resource versions and generations as the API server keeps them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from celery_operator.domain.errors import ClusterError, Conflict, Gone
from celery_operator.services.ports import EventRecord, Manifest, ObjectKey


class FakeCluster:
    """The port ``Cluster``. All goes in and out as deep copies; ``writes`` lists what was asked for, in order."""

    def __init__(self, *objects: Manifest) -> None:
        self.objects: dict[tuple[str, ObjectKey], Manifest] = {}
        self.events: list[EventRecord] = []
        self.writes: list[str] = []
        self.refusal: str | None = None
        """If set, applying is refused with these words."""
        self._version = 0
        for manifest in objects:
            self.put(manifest)

    def put(self, manifest: Manifest) -> Manifest:
        """Store an object as it is, as a new version."""
        self._version += 1
        stored = copy.deepcopy(manifest)
        metadata = stored["metadata"]
        metadata.setdefault("namespace", "default")
        metadata.setdefault("uid", f"uid-{stored['kind']}-{metadata['name']}")
        metadata.setdefault("generation", 1)
        metadata["resourceVersion"] = str(self._version)
        self.objects[stored["kind"], ObjectKey(metadata["namespace"], metadata["name"])] = stored
        return copy.deepcopy(stored)

    def must(self, kind: str, name: str, namespace: str = "default") -> Manifest:
        """Return an object that has to be there."""
        return copy.deepcopy(self.objects[kind, ObjectKey(namespace, name)])

    async def get(self, kind: str, key: ObjectKey) -> Manifest | None:
        return copy.deepcopy(self.objects.get((kind, key)))

    async def apply(self, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        kind, key = manifest["kind"], ObjectKey(metadata["namespace"], metadata["name"])
        self.writes.append(f"apply {kind}")
        if self.refusal is not None:
            raise ClusterError(self.refusal)
        live = self.objects.get((kind, key))
        if live is None:
            return self.put(manifest)
        if metadata.get("resourceVersion", live["metadata"]["resourceVersion"]) != live["metadata"]["resourceVersion"]:
            raise Conflict(f"{kind} {key} has changed")
        new = {**copy.deepcopy(manifest), "status": live.get("status", {})}
        kept = {name: live["metadata"][name] for name in ("uid", "generation")}
        new["metadata"] = {**new["metadata"], **kept}
        new["metadata"]["generation"] += new.get("spec") != live.get("spec")  # a ConfigMap has none
        return self.put(new)

    async def create(self, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        self.writes.append(f"create {manifest['kind']}")
        if (manifest["kind"], ObjectKey(metadata["namespace"], metadata["name"])) in self.objects:
            raise Conflict(f"{manifest['kind']} {metadata['name']} already exists")
        return self.put(manifest)

    async def delete(self, kind: str, key: ObjectKey) -> None:
        self.writes.append(f"delete {kind}")
        self.objects.pop((kind, key), None)

    async def scale(self, key: ObjectKey, replicas: int, *, resource_version: str) -> Manifest:
        self.writes.append(f"scale {replicas}")
        live = self._at("Deployment", key, resource_version)
        live["spec"]["replicas"] = replicas
        live["metadata"]["generation"] += 1
        return self.put(live)

    async def pods(self, namespace: str, labels: Mapping[str, str]) -> tuple[Manifest, ...]:
        chosen = {
            key.name: manifest
            for (kind, key), manifest in self.objects.items()
            if kind == "Pod" and key.namespace == namespace
            if labels.items() <= manifest["metadata"].get("labels", {}).items()
        }
        return tuple(copy.deepcopy(chosen[name]) for name in sorted(chosen))

    async def annotate_pod(self, key: ObjectKey, annotations: Mapping[str, str | None]) -> None:
        self.writes.append(f"annotate {key.name}")
        pod = await self.get("Pod", key)
        if pod is not None:
            merged = {**pod["metadata"].get("annotations", {}), **annotations}
            pod["metadata"]["annotations"] = {name: value for name, value in merged.items() if value is not None}
            self.put(pod)

    async def write_status(
        self, kind: str, key: ObjectKey, status: Mapping[str, Any], *, resource_version: str
    ) -> Manifest:
        self.writes.append(f"status {kind}")
        live = self._at(kind, key, resource_version)
        return self.put({**live, "status": copy.deepcopy(dict(status))})

    async def record(self, event: EventRecord) -> None:
        self.events.append(event)

    def _at(self, kind: str, key: ObjectKey, resource_version: str) -> Manifest:
        live = self.objects.get((kind, key))
        if live is None:
            raise Gone(f"{kind} {key} does not exist")
        if live["metadata"]["resourceVersion"] != resource_version:
            raise Conflict(f"{kind} {key} has changed")
        return copy.deepcopy(live)
