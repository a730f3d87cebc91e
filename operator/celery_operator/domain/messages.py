"""What travels between operator and workers, as values: tasks to publish, results and claims that were read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from celery_patterns.protocol import TaskIdentity

DEFAULT_QUEUE = "celery"
"""Celery's own default queue."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where an attempt that Celery itself retries goes on if its message has to be published again.

    The arguments are the original ones: what ``self.retry(args=…)`` had changed is gone with the message.
    """

    retries: int
    """Celery's own count in the message; the guard claims each count once."""
    queue: str = ""
    """Where the retry was sent; empty: where the attempt was."""
    tries: Mapping[str, Any] | None = None
    """What a task of the patterns counted (the header TRIES_HEADER): without it, deferrals would count as tries."""


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
    retries: int = 0
    """Celery's own retries that went before."""
    tries: Mapping[str, Any] | None = None

    def resumed(self, at: Resumption | None) -> TaskMessage:
        """Return the message with which the attempt goes on there; None: from its beginning."""
        if at is None:
            return self
        return dataclasses.replace(self, retries=at.retries, queue=at.queue or self.queue, tries=at.tries)


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
    """How long ago the lease ended or would have, by the server's clock; 0 before that."""
    starts: int = 1
    resumption: Resumption | None = None
    """Done: Celery's retry that would follow, whether or not there is one. Else: what the message carried; None if that
    was the first."""
    retry_overdue_seconds: float | None = None
    """Done, and Celery itself retries: how long ago that was due, less than 0 before. None: it does not say."""
    rejected: str = ""
    """Done, and no result is stored: the type of the exception that ended it (Ignore, Reject)."""
