"""The objects that tests create."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from support.api import Manifest

API_VERSION = "celery-operator.dev/v1alpha1"
APPLICATION = "celery_patterns.examples.app:app"
WORKER_IMAGE = "localhost/celery-worker:dev"
REDIS_IMAGE = "localhost/celery-operator-redis:dev"
REDIS_PORT = 6379
RABBITMQ_IMAGE = "localhost/celery-operator-rabbitmq:dev"
RABBITMQ_PORT = 5672
DEFAULT_QUEUE = "celery"

RESTRICTED_POD = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""What the restricted Pod Security Standard asks for: the tests' own pods run under it too."""


def namespace(name: str) -> Manifest:
    """Return a namespace that takes only pods of the restricted Pod Security Standard."""
    labels = {"celery-operator.dev/test": "true", "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def redis_pod(namespace: str, name: str) -> Manifest:
    """Return a Redis that forgets everything with its pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": RESTRICTED_POD,
            "containers": [
                {
                    "name": "redis",
                    "image": REDIS_IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["redis-server"],
                    "args": ["--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir", "/tmp"],
                    "ports": [{"containerPort": REDIS_PORT}],
                    "readinessProbe": {"tcpSocket": {"port": REDIS_PORT}, "periodSeconds": 1},
                    "securityContext": RESTRICTED_CONTAINER,
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def rabbitmq_pod(namespace: str, name: str) -> Manifest:
    """Return a RabbitMQ that forgets everything with its pod."""
    home = "/var/lib/rabbitmq"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {**RESTRICTED_POD, "fsGroup": 10001},
            "containers": [
                {
                    "name": "rabbitmq",
                    "image": RABBITMQ_IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "ports": [{"containerPort": RABBITMQ_PORT}],
                    "readinessProbe": {"tcpSocket": {"port": RABBITMQ_PORT}, "periodSeconds": 1},
                    "securityContext": RESTRICTED_CONTAINER,
                    "volumeMounts": [{"name": "home", "mountPath": home}, {"name": "tmp", "mountPath": "/tmp"}],
                }
            ],
            "volumes": [{"name": "home", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        },
    }


def service(namespace: str, name: str, port: int) -> Manifest:
    """Return the name under which others find a server's pod."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
    }


def app(namespace: str, name: str, *, broker: Mapping[str, Any], backend: Mapping[str, Any]) -> Manifest:
    """Return a CeleryApp; ``broker`` and ``backend`` are endpoints: ``{"url": …}`` or ``{"urlFrom": …}``."""
    spec = {
        "connection": {"broker": dict(broker), "resultBackend": dict(backend)},
        "image": WORKER_IMAGE,
        "application": APPLICATION,
    }
    return _custom("CeleryApp", namespace, name, spec)


def pool(namespace: str, name: str, *, app: str, ledger_url: str = "", **spec: Any) -> Manifest:
    """Return a CeleryWorkerPool whose workers know the ledger, if there is one."""
    if ledger_url:
        env = [{"name": "LEDGER_URL", "value": ledger_url}]
        spec["template"] = {"spec": {"containers": [{"name": "worker", "env": env}]}}
    return _custom("CeleryWorkerPool", namespace, name, {"appRef": {"name": app}, **spec})


def autoscaling(*, most: int, idle_timeout: int, least: int = 0) -> dict[str, Any]:
    """Return an autoscaling that shrinks as soon as it may."""
    return {
        "minReplicas": least,
        "maxReplicas": most,
        "idleTimeoutSeconds": idle_timeout,
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    }


def workflow(namespace: str, name: str, *, app: str, **spec: Any) -> Manifest:
    """Return a CeleryWorkflow."""
    return _custom("CeleryWorkflow", namespace, name, {"appRef": {"name": app}, **spec})


def task(name: str, *args: Any, **options: Any) -> dict[str, Any]:
    """Return a task with literal positional arguments."""
    return {"name": name, **({"args": [{"value": arg} for arg in args]} if args else {}), **options}


def on_item(name: str, *further: Any) -> dict[str, Any]:
    """Return a task of a map that gets the item and then literals."""
    return {"name": name, "args": [{"valueFrom": {"item": "$"}}, *({"value": value} for value in further)]}


def output(name: str, step: str | None = None) -> dict[str, Any]:
    """Return an output: of a step, or the result of the whole work."""
    return {"name": name, "valueFrom": {"result": "$"} if step is None else {"resultOf": {"step": step}}}


def fan_out_and_total(*, items: int, seconds: float, parallelism: int) -> dict[str, Any]:
    """Return a dag: numbers written to the ledger one by one, and their sum at the end."""
    numbers = {
        "items": {"range": {"start": 0, "end": items}},
        "parallelism": parallelism,
        "task": on_item("examples.ledger.record", seconds),
    }
    total = {"from": "numbers", "task": {"name": "examples.total"}}
    steps: Sequence[Manifest] = (
        {"name": "numbers", "map": numbers},
        {"name": "total", "dependsOn": [{"step": "numbers"}], "reduce": total},
    )
    return {"dag": {"steps": list(steps)}, "outputs": [output("total", "total")]}


def _custom(kind: str, namespace: str, name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
