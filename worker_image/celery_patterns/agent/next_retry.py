"""When the next of Celery's own retries of a task is due, and what its message carries, as the claim tells it.

Celery publishes the retry's message with an eta, and a worker holds it in memory until then. If that worker and the
broker's data are lost, the claim is all that says that a retry was to come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery.exceptions import Retry
from celery.utils.time import maybe_iso8601, maybe_make_aware

from celery_patterns.protocol import TRIES_HEADER, RetryNote

LONGEST_SECONDS = 10 * 365 * 86_400.0
"""Later than anybody waits for; bounds a count of milliseconds that Redis must hold."""


@dataclass(frozen=True, slots=True)
class NextRetry:
    """A retry that Celery has published."""

    seconds: float
    """Until it is due, when this was made."""
    note: RetryNote = field(default_factory=RetryNote)


def next_retry(reason: Retry, request: Mapping[str, Any], now: datetime, timezone: Any) -> NextRetry | None:
    """Return the retry that follows an execution; None if it does not say when.

    Args:
        reason: What the task raised.
        request: Celery's request dictionary of that execution.
        now: The time, aware.
        timezone: The application's, for an eta without one.
    """
    seconds = _seconds_until(reason.when, now, timezone)
    if seconds is None:
        return None
    options = (reason.sig.options if reason.sig is not None else None) or {}
    return NextRetry(min(max(seconds, 0.0), LONGEST_SECONDS), note_of(options, request))


def note_of(options: Mapping[str, Any], request: Mapping[str, Any]) -> RetryNote:
    """Return what the retry's message carries, from the options it was published with."""
    queue, tries = options.get("queue"), (options.get("headers") or {}).get(TRIES_HEADER)
    name = str(getattr(queue, "name", queue) or "")
    own = (request.get("delivery_info") or {}).get("routing_key")
    return RetryNote("" if name == own else name, dict(tries) if isinstance(tries, Mapping) else None)


def _seconds_until(when: Any, now: datetime, timezone: Any) -> float | None:
    if isinstance(when, (int, float)):
        return None if math.isnan(when) else float(when)
    try:
        at = maybe_iso8601(when)
        return None if at is None else float((maybe_make_aware(at, timezone) - now).total_seconds())
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None
