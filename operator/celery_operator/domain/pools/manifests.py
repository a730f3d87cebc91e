"""The Kubernetes objects of a pool: the workers' Deployment and the Secret with the agents' token."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from celery_operator.api import API_VERSION
from celery_operator.api.worker_pool import WorkerPoolSpec
from celery_operator.domain.pools import naming
from celery_operator.domain.pools.arguments import worker_arguments
from celery_operator.domain.pools.overlay import ENV_BROKER_URL, ENV_RESULT_BACKEND, lay_over
from celery_operator.domain.pools.resolved_app import ResolvedApp
from celery_patterns.protocol import (
    AGENT_PORT,
    ENV_AGENT_LEASE,
    ENV_AGENT_PORT,
    ENV_AGENT_TOKEN_FILE,
    ENV_MAX_DELIVERIES,
    ENV_POOL,
    PATH_LIVE,
    PATH_READY,
    PATH_STARTUP,
    RUN_AGENT,
    RUN_CELERY,
)

GRACE_SECONDS: Final = 30
"""What the pod's grace period has beyond the drain: Celery's own warm shutdown after it."""


@dataclass(frozen=True, slots=True)
class PoolIdentity:
    """Which pool an object belongs to."""

    namespace: str
    name: str
    uid: str

    def owner_reference(self) -> dict[str, Any]:
        """Return the reference by which Kubernetes removes the object with the pool, without holding the pool up."""
        return {
            "apiVersion": API_VERSION,
            "kind": "CeleryWorkerPool",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }


def token_secret(pool: PoolIdentity, token: str) -> dict[str, Any]:
    """Return the Secret with the bearer token that changing a worker needs."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(pool, naming.token_secret_name(pool.name)),
        "type": "Opaque",
        "immutable": True,
        "stringData": {naming.TOKEN_KEY: token},
    }


def worker_deployment(
    spec: WorkerPoolSpec,
    app: ResolvedApp,
    pool: PoolIdentity,
    *,
    token: str,
    default_image: str,
    replicas: int | None = None,
    resource_version: str | None = None,
) -> dict[str, Any]:
    """Return the Deployment of the pool's workers.

    ``token`` is only the key of the connection's hash; the pods read it from its Secret. ``replicas`` must be named in
    every apply, with the number observed: server-side apply takes a field away that its owner names no longer, and
    Kubernetes would then set one replica. ``resource_version`` makes the apply fail if the Deployment has changed.
    Raises SpecError for extraArgs or a template that set what the operator owns.
    """
    template = lay_over(_pod_template(spec, app, pool, token, default_image), spec.template, agent=has_agent(spec))
    manifest: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(pool, naming.deployment_name(pool.name)),
        "spec": {
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": naming.pool_labels(pool.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
            "template": template,
        },
    }
    manifest["metadata"]["annotations"] = {naming.ANNOTATION_MANIFEST_HASH: manifest_hash(manifest)}
    return with_replicas(manifest, replicas, resource_version)


def with_replicas(manifest: dict[str, Any], replicas: int | None, resource_version: str | None) -> dict[str, Any]:
    """Return a copy of a Deployment with these replicas, tied to this resourceVersion."""
    result = copy.deepcopy(manifest)
    if replicas is not None:
        result["spec"]["replicas"] = replicas
    if resource_version is not None:
        result["metadata"]["resourceVersion"] = resource_version
    return result


def manifest_hash(manifest: dict[str, Any]) -> str:
    """Return a short hash of a manifest's content."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]


def has_agent(spec: WorkerPoolSpec) -> bool:
    """Whether the pool's workers run the agent."""
    return spec.worker.agent != "None"


def is_injected(spec: WorkerPoolSpec) -> bool:
    """Whether an init container brings the agent into the workers' own image."""
    return spec.worker.agent == "Injected"


def _metadata(pool: PoolIdentity, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": pool.namespace,
        "labels": _labels(pool),
        "ownerReferences": [pool.owner_reference()],
    }


def _labels(pool: PoolIdentity) -> dict[str, str]:
    return {
        **naming.pool_labels(pool.name),
        "app.kubernetes.io/name": "celery-worker",
        "app.kubernetes.io/instance": pool.name,
        "app.kubernetes.io/managed-by": "celery-operator",
    }


def _pod_template(
    spec: WorkerPoolSpec, app: ResolvedApp, pool: PoolIdentity, token: str, default_image: str
) -> dict[str, Any]:
    """The operator's own template; it passes the restricted Pod Security Standard.

    No runAsUser: the image's own (numeric) USER counts, as platforms that give each namespace a range of users need it.
    No service links: a Service called ``celery-agent`` would otherwise overwrite the agent's own variables.
    """
    volumes: list[dict[str, Any]] = [{"name": naming.TEMPORARY_VOLUME, "emptyDir": {}}]
    if has_agent(spec):
        secret = {"secretName": naming.token_secret_name(pool.name), "defaultMode": 0o444}
        volumes.append({"name": naming.TOKEN_VOLUME, "secret": secret})
    pod: dict[str, Any] = {}
    if is_injected(spec):
        volumes.append({"name": naming.INJECTION, "emptyDir": {}})
        pod["initContainers"] = [_injector(default_image)]
    return {
        "metadata": {
            "labels": _labels(pool),
            "annotations": {naming.ANNOTATION_CONNECTION_HASH: app.connection_hash(token)},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": spec.drain.timeout_seconds + GRACE_SECONDS,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            **pod,
            "containers": [_container(spec, app, pool, default_image)],
            "volumes": volumes,
        },
    }


def _container(spec: WorkerPoolSpec, app: ResolvedApp, pool: PoolIdentity, default_image: str) -> dict[str, Any]:
    env = [app.broker.env(ENV_BROKER_URL)]
    if app.result_backend is not None:
        env.append(app.result_backend.env(ENV_RESULT_BACKEND))
    env.append({"name": ENV_POOL, "value": f"{pool.namespace}/{pool.name}"})
    container: dict[str, Any] = {
        "name": naming.WORKER_CONTAINER,
        "image": app.image or default_image,
        # The command is named, so that no shell of an image's entry point stands between Celery and the signals.
        "command": ["celery"],
        "args": worker_arguments(spec, app, pool.name),
        "env": env,
        "securityContext": _confined(),
        "volumeMounts": [{"name": naming.TEMPORARY_VOLUME, "mountPath": "/tmp"}],  # noqa: S108 - an emptyDir of its own
    }
    if has_agent(spec):
        _add_agent(container, spec)
        container["env"] += _recovery(app)
    return container


def _recovery(app: ResolvedApp) -> list[dict[str, str]]:
    """Return the variables that say what becomes of a killed worker's tasks; what is unset the application says."""
    env = []
    if app.broker_is_redis:
        env.append({"name": ENV_AGENT_LEASE, "value": str(app.recovery.lease_seconds)})
    if app.recovery.max_deliveries is not None:
        env.append({"name": ENV_MAX_DELIVERIES, "value": str(app.recovery.max_deliveries)})
    return env


def _injector(image: str) -> dict[str, Any]:
    """Return the init container that copies the agent out of the bundled image."""
    return {
        "name": naming.INJECTION,
        "image": image,
        "command": ["python", "-m", "celery_patterns.agent", "inject", naming.INJECTION_MOUNT],
        "securityContext": _confined(),
        "volumeMounts": [{"name": naming.INJECTION, "mountPath": naming.INJECTION_MOUNT}],
    }


def _confined() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def _add_agent(container: dict[str, Any], spec: WorkerPoolSpec) -> None:
    container["env"] += [
        {"name": ENV_AGENT_PORT, "value": str(AGENT_PORT)},
        {"name": ENV_AGENT_TOKEN_FILE, "value": f"{naming.TOKEN_MOUNT}/{naming.TOKEN_KEY}"},
    ]
    container["volumeMounts"].append({"name": naming.TOKEN_VOLUME, "mountPath": naming.TOKEN_MOUNT, "readOnly": True})
    container["ports"] = [{"name": naming.AGENT_PORT_NAME, "containerPort": AGENT_PORT, "protocol": "TCP"}]
    # Importing a large application takes its time; after five minutes something is wrong.
    container["startupProbe"] = _probe(PATH_STARTUP, period=1, failures=300, timeout=3)
    # Nothing is routed to a worker: readiness only says that it consumes. A drained worker should lose it soon, since
    # Kubernetes removes pods that are not ready before others.
    container["readinessProbe"] = _probe(PATH_READY, period=2, failures=2, timeout=3)
    container["livenessProbe"] = _probe(PATH_LIVE, period=20, failures=3, timeout=5)
    agent = ["python", "-m", "celery_patterns.agent"]
    if is_injected(spec):
        agent = ["python", f"{naming.INJECTION_MOUNT}/{RUN_AGENT}"]
        # A program in the volume, so that the image's own PYTHONPATH holds: see celery_patterns.agent.injection.
        container["command"] = ["python", f"{naming.INJECTION_MOUNT}/{RUN_CELERY}"]
        mount = {"name": naming.INJECTION, "mountPath": naming.INJECTION_MOUNT, "readOnly": True}
        container["volumeMounts"].append(mount)
    drain = [*agent, "drain", "--timeout-seconds", str(spec.drain.timeout_seconds)]
    container["lifecycle"] = {"preStop": {"exec": {"command": drain}}}


def _probe(path: str, *, period: int, failures: int, timeout: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": naming.AGENT_PORT_NAME},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": timeout,
    }
