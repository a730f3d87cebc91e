"""One look at a pool: its Deployment, pods, workers and queues. What could not be seen is None, never 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from celery_operator.api.conditions import Reason
from celery_operator.domain.pools.naming import (
    AGENT_PORT_NAME,
    ANNOTATION_DELETION_COST,
    ANNOTATION_MANIFEST_HASH,
    MARKED_COST,
    WORKER_CONTAINER,
)
from celery_patterns.protocol import AGENT_PORT, WorkerState

_HARMLESS_WAITING: Final = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons for which a container waits while everything is in order."""


@dataclass(frozen=True, slots=True)
class ObservedDeployment:
    """The workers' Deployment."""

    resource_version: str
    replicas: int
    """As its spec asks."""
    existing: int = 0
    """As its status counts, those of older revisions included."""
    ready: int = 0
    updated: int = 0
    generation: int | None = None
    observed_generation: int | None = None
    """The generation that Kubernetes' own controller has seen."""
    manifest_hash: str | None = None
    owner: str | None = None
    """uid of the controlling owner."""
    deleting: bool = False
    refusal: str | None = None
    """Kubernetes' words for why it cannot create pods."""
    overdue: str | None = None
    """Kubernetes' words for a rollout that makes no progress."""

    @property
    def seen(self) -> bool:
        """Whether Kubernetes' own controller has seen the latest spec."""
        return self.generation is None or (self.observed_generation or 0) >= self.generation


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """One worker's pod, with what its worker says."""

    name: str
    address: str | None = None
    """``host:port`` of the agent."""
    assigned: bool = True
    """Whether it has a node."""
    pending: bool = False
    """Phase Pending: no container runs yet."""
    finished: bool = False
    """Phase Failed or Succeeded: its ReplicaSet has replaced it."""
    started: bool = True
    """The startup probe has passed: the worker may hold tasks."""
    ready: bool = True
    terminating: bool = False
    revision: str = ""
    marked: bool = False
    """Its deletion cost says that it is to go first."""
    trouble: str | None = None
    """Kubernetes' words for why it does not start."""
    state: WorkerState | None = None
    """None: its worker did not answer."""

    @property
    def active(self) -> bool:
        """Whether its ReplicaSet counts it."""
        return not self.terminating and not self.finished

    @property
    def silent(self) -> bool:
        """Whether it may hold tasks that nobody can count."""
        return self.active and self.started and self.state is None

    @property
    def starting(self) -> bool:
        """Whether it holds nothing yet because it has not begun."""
        return self.active and not self.started and self.state is None

    @property
    def held(self) -> int | None:
        """How many tasks its worker holds, those for later included; None: unknown."""
        if self.state is None:
            return None
        return self.state.active + self.state.reserved + self.state.scheduled + self.state.scheduled_due

    @property
    def draining(self) -> bool:
        """Whether its worker has been told to take no more."""
        return self.state is not None and self.state.draining

    @property
    def removal_rank(self) -> tuple[bool, bool, bool]:
        """The order in which Kubernetes removes pods of one ReplicaSet, before it looks at their deletion costs."""
        return (self.assigned, not self.pending, self.ready)


@dataclass(frozen=True, slots=True)
class BrokerTrouble:
    """Why the broker could not be asked. The message holds no credentials."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class ObservedPool:
    """One look at everything a plan needs."""

    deployment: ObservedDeployment | None
    pods: tuple[ObservedPod, ...] = ()
    waiting: Mapping[str, int] | None = None
    """Messages by queue, over all priorities; None: the broker did not answer, or was not asked."""
    broker_trouble: BrokerTrouble | None = None
    has_token: bool = True
    """Whether the Secret with the agents' token exists."""

    @property
    def active(self) -> tuple[ObservedPod, ...]:
        """The pods that count as replicas."""
        return tuple(pod for pod in self.pods if pod.active)


def observed_deployment(manifest: Mapping[str, Any]) -> ObservedDeployment:
    """Read a Deployment as the API returns it."""
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    return ObservedDeployment(
        resource_version=metadata["resourceVersion"],
        replicas=manifest["spec"].get("replicas", 1),
        existing=status.get("replicas", 0),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        generation=metadata.get("generation"),
        observed_generation=status.get("observedGeneration"),
        manifest_hash=(metadata.get("annotations") or {}).get(ANNOTATION_MANIFEST_HASH),
        owner=controlling_owner(manifest),
        deleting="deletionTimestamp" in metadata,
        refusal=_words(conditions.get("ReplicaFailure"), "True"),
        overdue=_words(conditions.get("Progressing"), "False"),
    )


def controlling_owner(manifest: Mapping[str, Any]) -> str | None:
    """Return the uid of the owner that controls an object; None if nobody does."""
    owners = manifest["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), None)


def observed_pod(manifest: Mapping[str, Any]) -> ObservedPod:
    """Read a pod as the API returns it; its worker's state is still unknown."""
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    containers = status.get("containerStatuses") or ()
    worker: Mapping[str, Any] = next((each for each in containers if each["name"] == WORKER_CONTAINER), {})
    ready = (conditions.get("Ready") or {}).get("status") == "True"
    return ObservedPod(
        name=metadata["name"],
        address=_address(manifest),
        assigned=bool((manifest.get("spec") or {}).get("nodeName")),
        pending=status.get("phase", "Pending") == "Pending",
        finished=status.get("phase") in ("Failed", "Succeeded"),
        started=bool(worker.get("started", ready)),
        ready=ready,
        terminating="deletionTimestamp" in metadata,
        revision=(metadata.get("labels") or {}).get("pod-template-hash", ""),
        marked=(metadata.get("annotations") or {}).get(ANNOTATION_DELETION_COST) == MARKED_COST,
        trouble=_trouble(conditions, containers),
    )


def _address(manifest: Mapping[str, Any]) -> str | None:
    """The agent's port is looked up by name: local workers, which share one host, have one each."""
    ip = (manifest.get("status") or {}).get("podIP")
    if not ip:
        return None
    ports = (
        port
        for container in (manifest.get("spec") or {}).get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("name") == AGENT_PORT_NAME
    )
    port = next((each["containerPort"] for each in ports), AGENT_PORT)
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _words(condition: Mapping[str, Any] | None, status: str) -> str | None:
    if condition is None or condition.get("status") != status:
        return None
    return str(condition.get("message") or condition.get("reason") or condition["type"])


def _trouble(conditions: Mapping[str, Mapping[str, Any]], containers: Iterable[Mapping[str, Any]]) -> str | None:
    unscheduled = _words(conditions.get("PodScheduled"), "False")
    if unscheduled is not None:
        return unscheduled
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in _HARMLESS_WAITING:
            return f"container {container['name']}: {reason}: {waiting.get('message', '')}".rstrip(": ")
    return None
