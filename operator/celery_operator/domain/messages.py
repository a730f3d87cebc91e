"""What travels between operator and workers, as values: tasks to publish, results and claims that were read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from celery_patterns.protocol import TaskIdentity

DEFAULT_QUEUE = "celery"
"""Celery's own default queue."""


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """One Celery message to publish: one attempt of one element of a workflow."""

    identity: TaskIdentity
    task: str
    """Registered name."""
    args: tuple[Any, ...] = ()
    """JSON values; a value by reference is ``ResultReference.to_json()``."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    queue: str = DEFAULT_QUEUE
    time_limit: int | None = None
    soft_time_limit: int | None = None


ResultState = Literal["SUCCESS", "FAILURE", "REVOKED", "RETRY", "STARTED", "REJECTED"]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A result as the backend holds it."""

    state: ResultState
    value: Any = None
    """The return value of a SUCCESS."""
    size: int = 0
    """Bytes as stored."""
    exception: str = ""
    """Type name of a FAILURE."""
    message: str = ""
    worker: str = ""

    @property
    def final(self) -> bool:
        """Whether Celery will not change it any more."""
        return self.state in ("SUCCESS", "FAILURE", "REVOKED", "REJECTED")


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's claim on an attempt, as the result backend's server sees it now."""

    state: Literal["running", "done", "abandoned", "returned"]
    """``returned``: its worker gave it back before the end, and its message with it."""
    worker: str = ""
    lease_over: bool = False
    """Running, but not renewed in time: its worker is dead or cut off."""
    seconds_since_lease: float = 0.0
    """How long ago the lease ended, by the server's clock; 0 while it lives."""
    starts: int = 1
