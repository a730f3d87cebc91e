"""What the benchmark puts into its namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Manifest = dict[str, Any]

NAMESPACE = "bench"
OPERATOR_IMAGE = "localhost/celery-operator:dev"
WORKER_IMAGE = "localhost/celery-worker:dev"
REDIS_IMAGE = "localhost/celery-operator-redis:dev"
BROKER_URL = f"redis://redis.{NAMESPACE}.svc.cluster.local:6379/0"
BACKEND_URL = f"redis://redis.{NAMESPACE}.svc.cluster.local:6379/1"
GROUP, OWN_GROUP = "bench.celery-operator.dev", "celery-operator.dev"
BARE_CRD = f"bareworkflows.{GROUP}"
EMPTY_LABEL = "bench-empty"
WORKERS, SLOTS = 2, 2
"""Two pods of two processes: as many as two cores can feed."""

CPU = "100m"
"""What the chart asks for the operator. Without it a pod gets next to nothing on a busy node, and the load would wait
for what it measures."""

_SCRIPTS = Path(__file__).parent / "pod"
_POD_SECURITY = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
_ENVIRONMENT = {"NAMESPACE": NAMESPACE, "BROKER_URL": BROKER_URL, "BACKEND_URL": BACKEND_URL, "USER": "bench"}
"""kopf names itself after the user, and a pod has none."""


def namespace() -> Manifest:
    """Return the namespace; what runs in it keeps the restricted Pod Security Standard."""
    labels = {"celery-operator.dev/benchmark": "true", "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def stage() -> list[Manifest]:
    """Return the server, the rights, the scripts, the bare operator and the pod that makes the load."""
    metadata = {"name": "redis", "namespace": NAMESPACE}
    service = {"selector": {"app": "redis"}, "ports": [{"port": 6379}]}
    redis = ["redis-server", "--save", "", "--protected-mode", "no", "--dir", "/tmp"]
    wait = ["python", "-c", "import signal; signal.pause()"]
    kopf = ["python", "-m", "kopf", "run", "--quiet", "--standalone", f"--namespace={NAMESPACE}"]
    return [
        bare_crd(),
        *_rights(),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "scripts", "namespace": NAMESPACE},
            "data": {path.name: path.read_text(encoding="utf-8") for path in _SCRIPTS.glob("*.py")},
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        _pod("redis", REDIS_IMAGE, redis),
        _pod("bare", OPERATOR_IMAGE, [*kopf, "/bench/bare_operator.py"]),
        _pod("load", OPERATOR_IMAGE, wait),
    ]


def application() -> list[Manifest]:
    """Return the application and its fixed pool."""
    connection = {"broker": {"url": BROKER_URL}, "resultBackend": {"url": BACKEND_URL}}
    app = {"connection": connection, "image": WORKER_IMAGE, "application": "celery_patterns.examples.app:app"}
    pool = {"appRef": {"name": "bench"}, "replicas": WORKERS, "worker": {"concurrency": SLOTS}}
    return [_own("CeleryApp", "bench", app), _own("CeleryWorkerPool", "bench", pool)]


def empty_pools(count: int) -> list[Manifest]:
    """Return pools without workers, each of a queue of its own."""
    pools = []
    for index in range(count):
        spec = {"appRef": {"name": "bench"}, "queues": [{"name": f"empty-{index}"}], "replicas": 0}
        pools.append(_own("CeleryWorkerPool", f"empty-{index}", spec))
        pools[-1]["metadata"]["labels"] = {EMPTY_LABEL: "true"}
    return pools


def release_values(*, install_crds: bool) -> Manifest:
    """Return the chart's values: one replica, for this namespace alone."""
    return {
        "image": {"repository": "localhost/celery-operator", "tag": "dev", "pullPolicy": "IfNotPresent"},
        "workerImage": {"repository": "localhost/celery-worker", "tag": "dev"},
        "replicas": 1,
        "watchNamespaces": [NAMESPACE],
        "crds": {"install": install_crds},
        "podDisruptionBudget": {"enabled": False},
    }


def bare_crd() -> Manifest:
    """Return the kind that the bare operator runs."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}},
    }
    names = {"plural": "bareworkflows", "singular": "bareworkflow", "kind": "BareWorkflow"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": BARE_CRD},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def _rights() -> list[Manifest]:
    own = {"apiGroups": [GROUP, OWN_GROUP], "resources": ["*"], "verbs": ["*"]}
    maps = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "load"}
    metadata = {"name": "load", "namespace": NAMESPACE}
    api = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": api, "kind": "Role", "metadata": metadata, "rules": [own, maps]},
        {
            "apiVersion": api,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
    ]


def _pod(name: str, image: str, command: list[str]) -> Manifest:
    container: Manifest = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "resources": {"requests": {"cpu": CPU}},
        "env": [{"name": key, "value": value} for key, value in _ENVIRONMENT.items()],
        "securityContext": _SECURITY,
        "volumeMounts": [{"name": "scripts", "mountPath": "/bench"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "serviceAccountName": "load",
            "terminationGracePeriodSeconds": 1,
            "securityContext": _POD_SECURITY,
            "containers": [container],
            "volumes": [{"name": "scripts", "configMap": {"name": "scripts"}}, {"name": "tmp", "emptyDir": {}}],
        },
    }


def _own(kind: str, name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": f"{OWN_GROUP}/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }
