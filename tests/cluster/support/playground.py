"""A namespace of one test (or one module of tests), with its own Redis; gone afterwards."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from celery_patterns.protocol import task_id
from servers import eventually
from support import manifests
from support.api import Api, Manifest
from support.cluster import Cluster
from support.forward import Forward, RedisInPod
from support.ledger import Ledger

POD_READY_SECONDS = 60.0
"""From created to ready, on a node that also runs the tests: two or three seconds when nothing else does."""
EVENT_SECONDS = 5.0
"""Events are written one after another beside the operator's work, by an API server that serves everything else too."""
GONE_SECONDS = 120.0
"""Workers finish what they run before they go; nothing in these tests runs for longer than a minute."""

BROKER, BACKEND, LEDGER = 0, 1, 2
"""Database numbers of a test's Redis."""


class Playground:
    """One namespace."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.api: Api = cluster.api
        self.name = name
        self._servers: dict[str, RedisInPod] = {}

    # ------------------------------------------------------------------------------------------------- servers

    def start_redis(self, name: str = "redis") -> None:
        """Start a Redis and return when it answers."""
        self.api.create(manifests.redis_pod(self.name, name))
        if self.api.get("Service", self.name, name) is None:
            self.api.create(manifests.service(self.name, name, manifests.REDIS_PORT))
        self.wait_for_pods(1, f"app={name}")
        self.redis(name).ask(BROKER, lambda client: client.ping())

    def start_rabbitmq(self, name: str = "rabbitmq") -> str:
        """Start a RabbitMQ and return, when it listens, its URL without credentials: guest may come from anywhere."""
        self.api.create(manifests.rabbitmq_pod(self.name, name))
        self.api.create(manifests.service(self.name, name, manifests.RABBITMQ_PORT))
        self.wait_for_pods(1, f"app={name}")
        return f"amqp://{name}:{manifests.RABBITMQ_PORT}//"

    def redis(self, name: str = "redis") -> RedisInPod:
        """Return a Redis of this namespace, as the test reaches it."""
        if name not in self._servers:
            self._servers[name] = RedisInPod(Forward(self.cluster, self.name, f"pod/{name}", manifests.REDIS_PORT))
        return self._servers[name]

    def redis_url(self, database: int, name: str = "redis") -> str:
        """Return the URL as a user of this namespace writes it; the operator's pod is in another one."""
        return f"redis://{name}:{manifests.REDIS_PORT}/{database}"

    @property
    def ledger(self) -> Ledger:
        """What tasks of this namespace wrote down."""
        return Ledger(self.redis(), LEDGER)

    # ------------------------------------------------------------------------------------------------- objects

    def create_app(self, name: str = "app", *, backend: str = "redis") -> Manifest:
        """Create a CeleryApp on this namespace's Redis; ``backend`` names the Redis that keeps results."""
        broker = {"url": self.redis_url(BROKER)}
        return self.api.create(
            manifests.app(self.name, name, broker=broker, backend={"url": self.redis_url(BACKEND, backend)})
        )

    def create_pool(self, name: str = "pool", *, app: str = "app", **spec: Any) -> Manifest:
        """Create a CeleryWorkerPool whose workers know the ledger."""
        ledger_url = self.redis_url(LEDGER)
        return self.api.create(manifests.pool(self.name, name, app=app, ledger_url=ledger_url, **spec))

    def create_workflow(self, name: str, *, app: str = "app", **spec: Any) -> Manifest:
        """Create a CeleryWorkflow."""
        return self.api.create(manifests.workflow(self.name, name, app=app, **spec))

    def get(self, kind: str, name: str) -> Manifest:
        """Return an object that has to be there."""
        found = self.api.get(kind, self.name, name)
        assert found is not None, f"{kind} {self.name}/{name} is gone"
        return found

    def patch(self, kind: str, name: str, change: Mapping[str, Any]) -> Manifest:
        """Merge a change into an object."""
        return self.api.patch(kind, self.name, name, change)

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and wait until it is gone."""
        self.api.delete(kind, self.name, name)
        eventually(
            lambda: self.api.get(kind, self.name, name) is None,
            within=GONE_SECONDS,
            every=0.2,
            what=f"{kind} {name} to be gone",
        )

    # --------------------------------------------------------------------------------------------------- waits

    def wait(
        self, kind: str, name: str, true: Callable[[Manifest], object], *, within: float, what: str, every: float = 0.2
    ) -> Manifest:
        """Return an object as soon as something is true of it."""

        def look() -> Manifest | None:
            found = self.api.get(kind, self.name, name)
            return found if found is not None and true(found) else None

        def said() -> str:
            found = self.api.get(kind, self.name, name) or {}
            return f"{what} of {kind} {self.name}/{name}; its status is\n{json.dumps(found.get('status'), indent=1)}"

        found = eventually(look, within=within, every=every, what=said)
        assert found is not None
        return found

    def wait_condition(
        self, kind: str, name: str, condition_type: str, status: str, *, within: float, every: float = 0.2
    ) -> Manifest:
        """Return a condition as soon as it has a status."""
        found = self.wait(
            kind,
            name,
            lambda it: condition(it, condition_type).get("status") == status,
            within=within,
            every=every,
            what=f"{condition_type}={status}",
        )
        return condition(found, condition_type)

    def wait_ended(self, name: str, *, within: float) -> Manifest:
        """Return a workflow when it has ended, one way or the other."""
        return self.wait(
            "CeleryWorkflow",
            name,
            lambda it: condition(it, "Succeeded").get("status") in {"True", "False"},
            within=within,
            what="the end",
        )

    def wait_for_pods(self, count: int, selector: str, *, within: float = POD_READY_SECONDS) -> tuple[str, ...]:
        """Return the names of the pods when exactly so many are there, all ready and none on its way out."""
        found: list[Manifest] = []

        def look() -> bool:
            found[:] = self.pods(selector)
            return len(found) == count and all(ready(pod) for pod in found)

        what = f"{count} ready pods with {selector}"
        eventually(look, within=within, every=0.2, what=lambda: f"{what}\n{self.describe_pods()}")
        return tuple(sorted(pod["metadata"]["name"] for pod in found))

    def hold(self, kind: str, name: str, true: Callable[[Manifest], object], *, looks: int, every: float) -> None:
        """Assert that something stays true of an object for so many looks."""
        left = looks

        def look(found: Manifest) -> bool:
            nonlocal left
            assert true(found), f"{kind} {name} did not stay as it was:\n{json.dumps(found, indent=1)}"
            left -= 1
            return left <= 0

        self.wait(kind, name, look, within=looks * every * 3 + 10, every=every, what="the last look")

    # --------------------------------------------------------------------------------------------------- looks

    def pods(self, selector: str) -> list[Manifest]:
        """Return the pods with these labels, those on their way out included."""
        return self.api.list("Pod", self.name, labelSelector=selector)

    def worker_pods(self, pool: str = "pool") -> list[Manifest]:
        """Return the pods of a pool's workers."""
        return self.pods(worker_selector(pool))

    def events(self, kind: str, name: str) -> list[Manifest]:
        """Return the events about an object."""
        return self.api.list("Event", self.name, fieldSelector=f"involvedObject.name={name},involvedObject.kind={kind}")

    def wait_event(self, kind: str, name: str, reason: str, *, within: float = EVENT_SECONDS) -> Manifest:
        """Return an object's latest event with a reason; it is written some time after what it tells of."""
        told = eventually(
            lambda: [event for event in self.events(kind, name) if event["reason"] == reason],
            within=within,
            every=0.1,
            what=lambda: f"an event {reason} about {kind} {name}; told: {self._told(kind, name)}",
        )
        return told[-1]

    def _told(self, kind: str, name: str) -> str:
        return "; ".join(f"{event['reason']}: {event['message']}" for event in self.events(kind, name)) or "nothing"

    def outputs(self, name: str) -> dict[str, Any]:
        """Return what a workflow's status shows as outputs, by name."""
        status = self.get("CeleryWorkflow", name).get("status", {})
        return {output["name"]: output["value"] for output in status.get("outputs", [])}

    def task_ids(self, workflow: str, step: str, count: int, *, attempt: int = 1) -> set[str]:
        """Return the ids of the first items of a step: what the promise of one identity says they are."""
        uid = self.get("CeleryWorkflow", workflow)["metadata"]["uid"]
        return {task_id(uid, 1, step, index, attempt) for index in range(count)}

    def describe_pods(self) -> str:
        """Return the pods as kubectl shows them."""
        return self.cluster.attempt("get", "pods", "-n", self.name, "-o", "wide").said

    def close(self) -> None:
        """Let go of connections."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()


@contextmanager
def playground(cluster: Cluster, name: str) -> Iterator[Playground]:
    """Yield a fresh namespace; when the block ends it is deleted, and the deletion has to come to its end."""
    unique = f"{name}-{secrets.token_hex(2)}"
    cluster.api.request("POST", "/api/v1/namespaces", manifests.namespace(unique))
    ground = Playground(cluster, unique)
    try:
        yield ground
    finally:
        ground.close()
        delete_namespace(cluster, unique, wait=False)


def delete_namespace(cluster: Cluster, name: str, *, wait: bool = True) -> None:
    """Delete a namespace; workers of tests that failed are not waited for."""
    cluster.attempt("delete", "namespace", name, "--wait=false", "--ignore-not-found")
    if wait:
        await_gone(cluster, name)
        return
    cluster.attempt("delete", "pods", "--all", "-n", name, "--force", "--grace-period=0", "--wait=false")


def await_gone(cluster: Cluster, namespace: str) -> None:
    """Return when a namespace is gone. Raises AssertionError with its conditions if it hangs."""
    arguments = ("get", "namespace", namespace, "-o", "jsonpath={.status}", "--ignore-not-found")
    eventually(
        lambda: cluster.attempt("get", "namespace", namespace).code != 0,
        within=GONE_SECONDS,
        every=0.5,
        what=lambda: f"namespace {namespace} to be gone: {cluster.attempt(*arguments).said}",
    )


def condition(resource: Mapping[str, Any], condition_type: str) -> Manifest:
    """Return a condition of a resource; nothing if it has none of this type."""
    found = (resource.get("status") or {}).get("conditions") or []
    return next((entry for entry in found if entry["type"] == condition_type), {})


def ready(pod: Mapping[str, Any]) -> bool:
    """Say whether a pod is ready and stays."""
    return "deletionTimestamp" not in pod["metadata"] and condition(pod, "Ready").get("status") == "True"


def worker_selector(pool: str) -> str:
    """Return the selector of a pool's pods, as its /scale subresource says it too."""
    return f"celery-operator.dev/pool={pool}"


def seconds_between(earlier: str, later: str) -> float:
    """Return the time between two timestamps of the API."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
