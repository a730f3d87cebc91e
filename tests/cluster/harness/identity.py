"""How a cluster and this machine recognise each other: a random id, kept on both sides."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from harness.kubectl import Kubectl
from harness.layout import Layout

NAMESPACE = "kube-system"
MARK = "celery-operator-test-cluster"
"""The ConfigMap with the id."""

BackendName = Literal["kind", "node"]


@dataclass(frozen=True, slots=True)
class Record:
    """What this machine knows of the cluster it started; written when the cluster is ready.

    Attributes:
        id: The id that is also in the cluster.
        backend: What runs it.
        kubectl: The kubectl that fits it.
        helm: The helm that fits it.
    """

    id: str
    backend: BackendName
    kubectl: str
    helm: str

    @classmethod
    def read(cls, layout: Layout) -> Self | None:
        """Return the record, or None if no cluster was started."""
        try:
            return cls(**json.loads(layout.record.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def write(self, layout: Layout) -> None:
        """Keep the record."""
        layout.state.mkdir(parents=True, exist_ok=True)
        layout.record.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def new_id() -> str:
    """Return an id that no other cluster has."""
    return secrets.token_hex(16)


def mark(kubectl: Kubectl, identity: str) -> None:
    """Write the id into the cluster."""
    metadata = {"name": MARK, "namespace": NAMESPACE}
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"id": identity}}))


def read_mark(kubectl: Kubectl) -> str | None:
    """Return the id in the cluster with one read, or None if the cluster has none.

    Raises:
        HarnessError: The cluster does not answer, or has no such ConfigMap.
    """
    document = json.loads(kubectl.raw(f"/api/v1/namespaces/{NAMESPACE}/configmaps/{MARK}"))
    found = document.get("data", {}).get("id")
    return found if isinstance(found, str) else None


def kubectl_for(layout: Layout, record: Record) -> Kubectl:
    """Return the kubectl for a recorded cluster."""
    return Kubectl(Path(record.kubectl), layout.kubeconfig)
