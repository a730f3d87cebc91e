"""What a CustomResourceDefinition says about a kind beside its schema: names, columns, subresources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from celery_operator.api.app import CeleryApp
from celery_operator.api.model import ApiModel
from celery_operator.api.worker_pool import CeleryWorkerPool
from celery_operator.api.workflow import CeleryWorkflow


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``."""

    name: str
    json_path: str
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False
    """Only shown by ``kubectl get -o wide``."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a CRD writes it."""
        column = {"name": self.name, "type": self.type, "jsonPath": self.json_path}
        return {**column, "priority": 1} if self.wide else column


@dataclass(frozen=True, slots=True)
class Kind:
    """One of our kinds."""

    model: type[ApiModel]
    short_name: str
    columns: tuple[Column, ...]
    scalable: bool = False
    """Whether ``kubectl scale`` and a HorizontalPodAutoscaler may set ``spec.replicas``."""

    @property
    def name(self) -> str:
        """As in ``kind:``."""
        return self.model.__name__

    @property
    def plural(self) -> str:
        """As in URLs and RBAC rules."""
        return f"{self.name.lower()}s"

    def subresources(self) -> dict[str, Any]:
        """Return them as a CRD writes them."""
        if not self.scalable:
            return {"status": {}}
        return {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        }


def _condition(condition_type: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{condition_type}")].{field}'


AGE = Column("Age", ".metadata.creationTimestamp", "date")

KINDS = (
    Kind(
        CeleryApp,
        "celapp",
        (
            Column("Ready", _condition("Ready")),
            Column("Broker", _condition("BrokerReachable", "reason")),
            Column("Results", _condition("ResultBackendReachable", "reason")),
            AGE,
            Column("Reason", _condition("Ready", "reason"), wide=True),
            Column("Message", _condition("Ready", "message"), wide=True),
        ),
    ),
    Kind(
        CeleryWorkerPool,
        "celpool",
        (
            Column("Ready", ".status.readyReplicas", "integer"),
            Column("Desired", ".status.desiredReplicas", "integer"),
            Column("Busy", ".status.slots.busy", "integer"),
            Column("Waiting", ".status.waiting", "integer"),
            AGE,
            Column("Queues", ".spec.queues", wide=True),
            Column("Reason", _condition("Ready", "reason"), wide=True),
        ),
        scalable=True,
    ),
    Kind(
        CeleryWorkflow,
        "celwf",
        (
            Column("Phase", ".status.phase"),
            Column("Progress", ".status.progress"),
            Column("Failed", ".status.tasks.failed", "integer"),
            AGE,
            Column("Started", ".status.startTime", "date", wide=True),
            Column("Step", '.status.steps[?(@.state=="Running")].name', wide=True),
            Column("Message", ".status.message", wide=True),
        ),
    ),
)
"""Every kind, in the order in which a reader meets them."""
