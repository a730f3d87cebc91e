"""What ``advance`` is told and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from celery_operator.api.conditions import Reason
from celery_operator.api.workflow import OutputValue
from celery_operator.domain.messages import TaskMessage
from celery_operator.domain.workflows.state import RunState

OutcomeState = Literal["started", "succeeded", "failed", "timed_out", "lost", "revoked", "retrying"]
"""``lost``: its worker died, and it can never begin or go on. ``retrying``: Celery's own retry, the same attempt."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt. Old ones, repeated ones and ones of unknown steps change nothing."""

    step: str
    index: int
    attempt: int
    state: OutcomeState
    time: datetime
    size: int = 0
    """Bytes of the stored result; 0 if not told."""
    value: Any = None
    """The result, if ``has_value``."""
    has_value: bool = False
    exception: str = ""
    message: str = ""
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen since the last call, and the answers to the last plan's ``fetch``."""

    outcomes: tuple[Outcome, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    """``Fetch.key`` -> the value."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """``Fetch.key`` -> why the value will never be had (no result stored, too large, not JSON)."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """A result that is needed here: to count the items of a map, or to show an output."""

    key: str
    task_ids: tuple[str | None, ...]
    """Whose results to read; None: stands for a failure that was tolerated (``null``)."""
    many: bool = False
    """True: the value is the list of all these results in order; False: it is the one result."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How the run has ended."""

    succeeded: bool
    reason: Reason
    message: str
    outputs: tuple[OutputValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. Apply all of it, then call again with what was seen; at once if ``more``."""

    state: RunState
    """What to pass next time; the same object if nothing changed."""
    publish: tuple[TaskMessage, ...] = ()
    fetch: tuple[Fetch, ...] = ()
    revoke: tuple[str, ...] = ()
    """Ids of published tasks that are no longer wanted."""
    wake_at: datetime | None = None
    """Call again then at the latest: a retry or the deadline is due."""
    more: bool = False
    """More could be published at once; only the bound on one plan's messages stands against it."""
    finished: Finish | None = None
