"""Names, labels and annotations of what a pool owns."""

from __future__ import annotations

from typing import Final

from celery_operator.api import GROUP

WORKER_CONTAINER: Final = "worker"
AGENT_PORT_NAME: Final = "agent"
"""Name of the container port on which the agent answers; the operator reads its number from the pod."""

OWNED_PREFIX: Final = f"{GROUP}/"
"""Labels and annotations that begin so belong to the operator."""

LABEL_POOL: Final = f"{GROUP}/pool"
"""On the Deployment and its pods: the pool's name. It is the whole selector, which Kubernetes never lets change."""

ANNOTATION_MANIFEST_HASH: Final = f"{GROUP}/manifest-hash"
"""On the Deployment: a hash of what was applied last, so that it is applied again only when something changed."""

ANNOTATION_CONNECTION_HASH: Final = f"{GROUP}/connection-hash"
"""On the pods: a keyed hash of the URLs. A Secret with another content rolls the pods."""

ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes removes the pods with the lowest cost first."""

MARKED_COST: Final = "-1000"
"""The cost of a drained worker; that of any other pod is 0."""

TOKEN_KEY: Final = "token"
TOKEN_MOUNT: Final = "/var/run/celery-operator"
"""Where the token Secret is mounted in the worker's container."""
TOKEN_VOLUME: Final = "celery-operator-token"
TEMPORARY_VOLUME: Final = "tmp"
INJECTION: Final = "celery-operator-agent"
"""Name of the init container that brings the agent into another image, and of the volume through which it does."""
INJECTION_MOUNT: Final = "/opt/celery-operator"


def deployment_name(pool: str) -> str:
    """Return the name of the pool's Deployment. The suffix keeps it apart from an application's own Deployment."""
    return f"{pool}-worker"


def token_secret_name(pool: str) -> str:
    """Return the name of the Secret that holds the bearer token of the pool's agents."""
    return f"{pool}-agent-token"


def pool_labels(pool: str) -> dict[str, str]:
    """Return the labels by which the pool's pods are found."""
    return {LABEL_POOL: pool}


def selector(pool: str) -> str:
    """Return the same as a label selector in text form, as the scale subresource wants it."""
    return f"{LABEL_POOL}={pool}"
