"""Keeps as many pods as a Deployment asks for: what the Deployment and ReplicaSet controllers do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any

from celery_operator.local.node import Node
from celery_operator.local.objects import EventType, ObjectStore, timestamp
from celery_operator.services.ports import Clock, Manifest, ObjectKey

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
HASH_LABEL = "pod-template-hash"
SURGE = 0.25
"""Kubernetes' default maxSurge; maxUnavailable is 0 here."""
_ALPHABET = string.ascii_lowercase + string.digits

logger = logging.getLogger(__name__)


def is_ready(pod: Manifest) -> bool:
    """Whether the pod's condition Ready is True."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def is_leaving(pod: Manifest) -> bool:
    """Whether the pod is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


def victims(pods: Sequence[Manifest], count: int) -> tuple[Manifest, ...]:
    """Return the pods that a ReplicaSet removes first: pending, not ready, the lowest deletion cost, the youngest."""

    def rank(pod: Manifest) -> tuple[bool, bool, int]:
        cost = int(pod["metadata"].get("annotations", {}).get(DELETION_COST, 0))
        return pod.get("status", {}).get("phase") != "Pending", is_ready(pod), cost

    youngest_first = sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
    return tuple(sorted(youngest_first, key=rank)[: max(count, 0)])


def template_hash(template: Mapping[str, Any]) -> str:
    """Return a name for a revision of the pod template."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


class Deployments:
    """Reconciles Deployments whenever one of them, or one of their pods, changes."""

    def __init__(self, store: ObjectStore, node: Node, clock: Clock) -> None:
        self._store = store
        self._node = node
        self._clock = clock
        self._dirty: dict[ObjectKey, None] = {}
        self._woken = asyncio.Event()
        store.watch(self._observe)

    async def run(self) -> None:
        """Reconcile for ever."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._dirty:
                key = next(iter(self._dirty))
                del self._dirty[key]
                self.reconcile(key)

    def reconcile(self, key: ObjectKey) -> None:
        """Start or end pods so that the Deployment gets closer to its spec, and report its status."""
        deployment = self._store.get("Deployment", key)
        if deployment is None or is_leaving(deployment):
            return
        desired = int(deployment["spec"]["replicas"])
        revision = template_hash(deployment["spec"]["template"])
        replica_set = self._replica_set(deployment, revision)
        pods = [pod for pod in self._pods(deployment) if not is_leaving(pod)]
        new = [pod for pod in pods if pod["metadata"]["labels"].get(HASH_LABEL) == revision]
        old = [pod for pod in pods if pod["metadata"]["labels"].get(HASH_LABEL) != revision]
        room = desired - len(new)
        if old:
            room = min(room, desired + math.ceil(desired * SURGE) - len(pods))
        for _ in range(room):
            self._create_pod(deployment, replica_set, revision)
        leaving = [*victims(new, len(new) - desired)]
        ready = sum(1 for pod in new if is_ready(pod))
        leaving += victims(old, len(old) - max(desired - ready, 0))
        for pod in leaving:
            self._store.mark_deleted("Pod", ObjectKey(key.namespace, pod["metadata"]["name"]))
        self._report(key, revision)

    def _observe(self, kind: str, event: EventType, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        if kind == "Deployment" and event != "DELETED":
            self._wake(ObjectKey(metadata["namespace"], metadata["name"]))
        if kind == "Pod":
            for owner in metadata.get("ownerReferences", ()):
                replica_set = self._store.get("ReplicaSet", ObjectKey(metadata["namespace"], owner["name"]))
                for above in replica_set["metadata"]["ownerReferences"] if replica_set else ():
                    self._wake(ObjectKey(metadata["namespace"], above["name"]))

    def _wake(self, key: ObjectKey) -> None:
        self._dirty[key] = None
        self._woken.set()

    def _replica_set(self, deployment: Manifest, revision: str) -> Manifest:
        metadata = deployment["metadata"]
        key = ObjectKey(metadata["namespace"], f"{metadata['name']}-{revision}")
        found = self._store.get("ReplicaSet", key)
        if found is not None:
            return found
        template = deployment["spec"]["template"]
        return self._store.create(
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "namespace": key.namespace,
                    "name": key.name,
                    "labels": {**template["metadata"].get("labels", {}), HASH_LABEL: revision},
                    "ownerReferences": [_owner(deployment)],
                },
                "spec": {"template": template},
            }
        )

    def _pods(self, deployment: Manifest) -> list[Manifest]:
        namespace = deployment["metadata"]["namespace"]
        sets = {
            rs["metadata"]["uid"]
            for rs in self._store.list("ReplicaSet", namespace)
            if any(owner["uid"] == deployment["metadata"]["uid"] for owner in rs["metadata"]["ownerReferences"])
        }
        return [
            pod
            for pod in self._store.list("Pod", namespace)
            if any(owner["uid"] in sets for owner in pod["metadata"].get("ownerReferences", ()))
        ]

    def _create_pod(self, deployment: Manifest, replica_set: Manifest, revision: str) -> None:
        template = deployment["spec"]["template"]
        suffix = "".join(secrets.choice(_ALPHABET) for _ in range(5))
        name = f"{replica_set['metadata']['name']}-{suffix}"
        key = ObjectKey(deployment["metadata"]["namespace"], name)
        metadata = template.get("metadata", {})
        pod = self._store.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "namespace": key.namespace,
                    "name": name,
                    "labels": {**metadata.get("labels", {}), HASH_LABEL: revision},
                    "annotations": dict(metadata.get("annotations", {})),
                    "ownerReferences": [_owner(replica_set)],
                },
                "spec": {**template["spec"], "nodeName": "local"},
            }
        )
        address = self._node.free_address(pod)

        def place(pod: Manifest) -> None:
            pod["status"] = {"phase": "Pending", "podIP": address, "hostIP": "127.0.0.1", "conditions": []}

        placed = self._store.change("Pod", key, place)
        if placed is not None:
            self._node.start(placed)

    def _report(self, key: ObjectKey, revision: str) -> None:
        now = timestamp(self._clock.now())

        def edit(deployment: Manifest) -> None:
            pods = [pod for pod in self._pods(deployment) if not is_leaving(pod)]
            ready = sum(1 for pod in pods if is_ready(pod))
            desired = int(deployment["spec"]["replicas"])
            enough = "True" if ready >= desired else "False"
            before = {c["type"]: c for c in deployment.get("status", {}).get("conditions", ())}
            old = before.get("Available", {})
            since = old["lastTransitionTime"] if old.get("status") == enough else now
            deployment["status"] = {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": len(pods),
                "updatedReplicas": sum(1 for pod in pods if pod["metadata"]["labels"].get(HASH_LABEL) == revision),
                "readyReplicas": ready,
                "availableReplicas": ready,
                "unavailableReplicas": max(desired - ready, 0),
                "conditions": [{"type": "Available", "status": enough, "lastTransitionTime": since}],
            }

        self._store.change("Deployment", key, edit)


def _owner(manifest: Manifest) -> dict[str, Any]:
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "name": manifest["metadata"]["name"],
        "uid": manifest["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
