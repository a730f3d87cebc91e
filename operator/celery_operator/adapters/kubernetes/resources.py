"""Where kinds live in the API: kind to group, version and plural."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from celery_operator.api import API_VERSION
from celery_operator.services.ports import ObjectKey


class Resource(NamedTuple):
    """One kind of the API."""

    api_version: str
    plural: str

    @property
    def prefix(self) -> str:
        """Return the path of its group and version."""
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"

    def collection(self, namespace: str) -> str:
        """Return the path of all its objects in a namespace."""
        return f"{self.prefix}/namespaces/{quote(namespace, safe='')}/{self.plural}"

    def path(self, key: ObjectKey) -> str:
        """Return the path of one object."""
        return f"{self.collection(key.namespace)}/{quote(key.name, safe='')}"


RESOURCES = {
    "CeleryApp": Resource(API_VERSION, "celeryapps"),
    "CeleryWorkerPool": Resource(API_VERSION, "celeryworkerpools"),
    "CeleryWorkflow": Resource(API_VERSION, "celeryworkflows"),
    "ConfigMap": Resource("v1", "configmaps"),
    "Deployment": Resource("apps/v1", "deployments"),
    "Event": Resource("v1", "events"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "Pod": Resource("v1", "pods"),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
    "ReplicaSet": Resource("apps/v1", "replicasets"),
    "Secret": Resource("v1", "secrets"),
    "Service": Resource("v1", "services"),
    "ServiceAccount": Resource("v1", "serviceaccounts"),
}
"""All kinds that services read or write; all of them are namespaced."""


def resource_of(kind: str) -> Resource:
    """Return where a kind lives. Raises ValueError for one that is not in RESOURCES."""
    try:
        return RESOURCES[kind]
    except KeyError:
        raise ValueError(f"{kind} is not a kind that the operator touches: {', '.join(RESOURCES)}") from None
