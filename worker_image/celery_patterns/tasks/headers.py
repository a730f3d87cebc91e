"""The message header in which a task's tries are counted, so that every worker and every person can read them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery_patterns import protocol

HEADER = protocol.TRIES_HEADER
"""Its value is ``Tries.to_header()``; absent from a message that is published for the first time."""

TOKEN = "celery_patterns_token"
"""Set by the worker's main process for the process that runs the task; never published."""


@dataclass(frozen=True, slots=True)
class Tries:
    """How often a message came before."""

    attempt: int = 1
    """1 for the first try."""
    deferrals: int = 0
    """How often it was sent away before it ran; these cost no retry."""
    deferred: float = 0.0
    """Seconds it was deferred for in a row, since it ran last."""
    first_at: float | None = None
    """Seconds since the epoch at which it was first tried or deferred."""

    def to_header(self) -> dict[str, Any]:
        """Return the JSON value of ``HEADER``."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, headers: Mapping[str, Any] | None, retries: int) -> Tries:
        """Read a message's header; Celery's own count counts where there is none or it is malformed."""
        raw = (headers or {}).get(HEADER)
        if not isinstance(raw, Mapping):
            return cls(attempt=retries + 1)
        try:
            deferrals = max(0, int(raw.get("deferrals") or 0))
            deferred = float(raw.get("deferred") or 0.0)
            first_at = None if raw.get("first_at") is None else float(raw["first_at"])
            if not (math.isfinite(deferred) and math.isfinite(first_at or 0.0)):
                return cls(attempt=retries + 1)
            return cls(
                # Celery's count includes deferrals: it must differ for each message of one id.
                attempt=max(1, retries + 1 - deferrals),
                deferrals=deferrals,
                deferred=deferred,
                first_at=first_at,
            )
        except (TypeError, ValueError, OverflowError):  # the last: JSON of Python's kind knows Infinity
            return cls(attempt=retries + 1)

    def retried(self, now: float) -> Tries:
        """Return the tries of the message that follows a failure."""
        return Tries(self.attempt + 1, self.deferrals, 0.0, self.first_at or now)

    def deferred_for(self, seconds: float, now: float) -> Tries:
        """Return the tries of the message that follows a deferral."""
        return Tries(self.attempt, self.deferrals + 1, self.deferred + seconds, self.first_at or now)
