"""Objects of the Kubernetes API in memory, with the API server's manners: versions, conflicts, finalizers, owners.

Everything happens in one event loop: a method that does not await is one transaction. What is handed out is a copy.
"""

from __future__ import annotations

import base64
import copy
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

from celery_operator.domain.errors import Conflict, Gone
from celery_operator.local.merge import apply_merge
from celery_operator.services.ports import Clock, Manifest, ObjectKey

EventType = Literal["ADDED", "MODIFIED", "DELETED"]
Watcher = Callable[[str, EventType, Manifest], None]
"""Called with kind, event type and a copy of the object, within the change: it must not block."""

WITH_STATUS = frozenset({"CeleryApp", "CeleryWorkerPool", "CeleryWorkflow", "Deployment", "ReplicaSet", "Pod"})
"""Kinds whose status is a subresource: apply and create leave it alone."""
SERVER_FIELDS = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")


def timestamp(moment: datetime) -> str:
    """Return the API's form of a time: UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def key_of(manifest: Mapping[str, Any]) -> ObjectKey:
    """Return where a manifest belongs; without a namespace it is ``default``."""
    metadata = manifest["metadata"]
    return ObjectKey(metadata.get("namespace") or "default", metadata["name"])


class ObjectStore:
    """All objects of one local cluster."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._objects: dict[tuple[str, ObjectKey], Manifest] = {}
        self._applied: dict[str, Manifest] = {}
        self._version = 0
        self._watchers: list[Watcher] = []

    def watch(self, watcher: Watcher) -> None:
        """Call the watcher for every change from now on."""
        self._watchers.append(watcher)

    def get(self, kind: str, key: ObjectKey) -> Manifest | None:
        """Return a copy of an object; None if there is none."""
        return copy.deepcopy(self._objects.get((kind, key)))

    def list(self, kind: str, namespace: str | None = None) -> tuple[Manifest, ...]:
        """Return copies of all objects of a kind, sorted by namespace and name."""
        found = ((key, value) for (k, key), value in self._objects.items() if k == kind)
        chosen = sorted((pair for pair in found if namespace in (None, pair[0].namespace)), key=lambda pair: pair[0])
        return tuple(copy.deepcopy(value) for _, value in chosen)

    def create(self, manifest: Manifest) -> Manifest:
        """Add an object. Raises Conflict if it exists."""
        kind, key = manifest["kind"], key_of(manifest)
        if (kind, key) in self._objects:
            raise Conflict(f"{kind} {key} already exists")
        new = _normal(manifest)
        metadata = {name: value for name, value in new["metadata"].items() if name not in SERVER_FIELDS}
        created = timestamp(self._clock.now())
        new["metadata"] = {
            **metadata,
            "namespace": key.namespace,
            "name": key.name,
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": created,
        }
        if kind in WITH_STATUS:
            new.pop("status", None)
        if kind == "Deployment":
            new["spec"].setdefault("replicas", 1)
        return self._store(kind, key, new, "ADDED")

    def apply(self, manifest: Manifest) -> Manifest:
        """Create or merge an object as server-side apply by its only manager would. Raises Conflict for a wrong uid."""
        kind, key = manifest["kind"], key_of(manifest)
        live = self._objects.get((kind, key))
        sent = _normal(manifest)
        if kind in WITH_STATUS:
            sent.pop("status", None)
        expected = sent["metadata"].get("resourceVersion")
        if live is None:
            if expected:
                raise Conflict(f"{kind} {key} does not exist with resourceVersion {expected}")
            created = self.create(sent)
            self._applied[created["metadata"]["uid"]] = _owned(sent)
            return created
        metadata = live["metadata"]
        if expected and expected != metadata["resourceVersion"]:
            raise Conflict(f"{kind} {key} has resourceVersion {metadata['resourceVersion']}, not {expected}")
        uid = metadata["uid"]
        if sent["metadata"].get("uid", uid) != uid:
            raise Conflict(f"{kind} {key} is another object: uid {uid}")
        owned = _owned(sent)
        new = apply_merge(live, self._applied.get(uid, {}), owned)
        self._applied[uid] = owned
        return self.replace(kind, key, new)

    def replace(self, kind: str, key: ObjectKey, new: Manifest) -> Manifest:
        """Store a new version of an object that exists; without a difference nothing happens. Raises Gone."""
        live = self._objects.get((kind, key))
        if live is None:
            raise Gone(f"{kind} {key} does not exist")
        new = copy.deepcopy(new)
        new["metadata"] |= {name: live["metadata"][name] for name in SERVER_FIELDS if name in live["metadata"]}
        if new == live:
            return copy.deepcopy(live)
        if new.get("spec") != live.get("spec"):
            new["metadata"]["generation"] += 1
        if "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers") and kind != "Pod":
            return self.remove(kind, key) or new
        return self._store(kind, key, new, "MODIFIED")

    def change(self, kind: str, key: ObjectKey, edit: Callable[[Manifest], None]) -> Manifest | None:
        """Let ``edit`` change a copy and store it; None if there is no such object."""
        new = self.get(kind, key)
        if new is None:
            return None
        edit(new)
        return self.replace(kind, key, new)

    def at_version(self, kind: str, key: ObjectKey, resource_version: str) -> Manifest:
        """Return a copy of an object for an update. Raises Gone if there is none, Conflict if it is another version."""
        live = self.get(kind, key)
        if live is None:
            raise Gone(f"{kind} {key} does not exist")
        if live["metadata"]["resourceVersion"] != resource_version:
            raise Conflict(f"{kind} {key} has changed since version {resource_version} was read")
        return live

    def mark_deleted(self, kind: str, key: ObjectKey) -> Manifest | None:
        """Set the time of deletion without removing the object; None if there is none."""
        live = self._objects.get((kind, key))
        if live is None:
            return None
        if "deletionTimestamp" in live["metadata"]:
            return copy.deepcopy(live)
        new = copy.deepcopy(live)
        new["metadata"]["deletionTimestamp"] = timestamp(self._clock.now())
        return self._store(kind, key, new, "MODIFIED")

    def remove(self, kind: str, key: ObjectKey) -> Manifest | None:
        """Take an object out of the store; return its last form, or None if it was gone."""
        live = self._objects.pop((kind, key), None)
        if live is None:
            return None
        self._applied.pop(live["metadata"]["uid"], None)
        self._version += 1
        self._tell(kind, "DELETED", live)
        return copy.deepcopy(live)

    def owned_by(self, uid: str) -> tuple[tuple[str, ObjectKey], ...]:
        """Return kind and key of the objects that name this uid as an owner."""
        return tuple(
            where
            for where, value in self._objects.items()
            if any(owner.get("uid") == uid for owner in value["metadata"].get("ownerReferences", ()))
        )

    def _store(self, kind: str, key: ObjectKey, new: Manifest, event: EventType) -> Manifest:
        self._version += 1
        new["metadata"]["resourceVersion"] = str(self._version)
        self._objects[kind, key] = new
        self._tell(kind, event, new)
        return copy.deepcopy(new)

    def _tell(self, kind: str, event: EventType, manifest: Manifest) -> None:
        for watcher in self._watchers:
            watcher(kind, event, copy.deepcopy(manifest))


def _normal(manifest: Manifest) -> Manifest:
    """Return a copy in the form that the server keeps: all of a Secret is in ``data``, each value in one line."""
    new = copy.deepcopy(manifest)
    if new["kind"] != "Secret":
        return new
    plain = new.pop("stringData", None) or {}
    encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()}
    if new.get("data") or encoded:
        given = {key: "".join(str(value).split()) for key, value in (new.get("data") or {}).items()}
        new["data"] = {**given, **encoded}
    return new


def _owned(sent: Manifest) -> Manifest:
    """Return the fields of a manifest that its sender owns: not what the server sets."""
    owned = copy.deepcopy(sent)
    owned["metadata"] = {name: value for name, value in sent["metadata"].items() if name not in SERVER_FIELDS}
    owned["metadata"].setdefault("namespace", "default")
    return owned
