"""What a plan can ask for. Each action is idempotent, and carries its reason where people will read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CreateTokenSecret:
    """Make a token for the pool's agents and keep it in a Secret."""


@dataclass(frozen=True, slots=True)
class ApplyDeployment:
    """Create or update the workers' Deployment with these replicas."""

    replicas: int
    resource_version: str | None
    """None: it does not exist yet."""
    message: str


@dataclass(frozen=True, slots=True)
class ScaleDeployment:
    """Set the Deployment's replicas if nobody has changed it since it was seen."""

    before: int
    replicas: int
    resource_version: str
    message: str


@dataclass(frozen=True, slots=True)
class DrainWorker:
    """Tell an idle worker to take no more."""

    pod: str
    address: str
    message: str


@dataclass(frozen=True, slots=True)
class ResumeWorker:
    """Tell a worker that was to go to take tasks again."""

    pod: str
    address: str


@dataclass(frozen=True, slots=True)
class MarkForDeletion:
    """Let Kubernetes remove this pod before others."""

    pod: str


@dataclass(frozen=True, slots=True)
class UnmarkForDeletion:
    """Take that back."""

    pod: str


Action = (
    CreateTokenSecret
    | ApplyDeployment
    | ScaleDeployment
    | DrainWorker
    | ResumeWorker
    | MarkForDeletion
    | UnmarkForDeletion
)
