"""Specs and observations of pools, as short as tests want them."""

from __future__ import annotations

from typing import Any

from celery_operator.api import API_VERSION
from celery_operator.api.worker_pool import WorkerPoolSpec
from celery_operator.domain.pools.observation import ObservedDeployment, ObservedPod, ObservedPool
from celery_patterns.protocol import WorkerState
from fakes.agents import idle_worker

BROKER_URL = "redis://redis:6379/0"
APP: dict[str, Any] = {"connection": {"broker": {"url": BROKER_URL}}}
HASH = "wanted"


def pool_spec(**fields: Any) -> WorkerPoolSpec:
    """Return a spec; fields in their JSON spelling. Autoscaling 0 to 5 unless told otherwise."""
    if "replicas" not in fields:
        fields.setdefault("autoscaling", {"minReplicas": 0, "maxReplicas": 5})
    app = {} if "appRef" in fields else {"app": APP}
    return WorkerPoolSpec.model_validate(app | fields)


def pool_manifest(name: str = "etl", **spec: Any) -> dict[str, Any]:
    """Return a CeleryWorkerPool as the API would."""
    app = {} if "appRef" in spec else {"app": APP}
    return {
        "apiVersion": API_VERSION,
        "kind": "CeleryWorkerPool",
        "metadata": {"name": name, "namespace": "default", "uid": "6f4a", "generation": 1},
        "spec": app | spec,
    }


def pod(name: str, state: WorkerState | None = None, **fields: Any) -> ObservedPod:
    """Return a running, ready pod of revision ``one``; ready unless its worker drains."""
    fields.setdefault("ready", state is not None and not state.draining)
    return ObservedPod(**{"name": name, "address": f"{name}:9540", "revision": "one", "state": state, **fields})


def observed(*pods: ObservedPod, waiting: int | None = 0, replicas: int | None = None, **fields: Any) -> ObservedPool:
    """Return an observation of a settled Deployment with these pods; ``waiting`` messages in one queue."""
    active = [each for each in pods if each.active]
    deployment = ObservedDeployment(
        resource_version="7",
        replicas=len(active) if replicas is None else replicas,
        existing=len(active),
        ready=sum(each.ready for each in active),
        updated=len(active),
        generation=1,
        observed_generation=1,
        manifest_hash=HASH,
        owner="6f4a",
    )
    counts = None if waiting is None else {"celery": waiting}
    return ObservedPool(**{"deployment": deployment, "pods": pods, "waiting": counts, **fields})


def idle_pods(count: int) -> tuple[ObservedPod, ...]:
    """Return pods a, b, c, … with idle workers; a has been idle for longest."""
    return tuple(pod(chr(ord("a") + n), idle_worker(idle_seconds=100.0 - n)) for n in range(count))
