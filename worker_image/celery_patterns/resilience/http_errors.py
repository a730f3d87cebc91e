"""The HTTP status that an exception carries, whichever client raised it: recognised by shape, nothing is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

GRPC_STATUSES = {
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "RESOURCE_EXHAUSTED": 429,
    "ABORTED": 503,
    "INTERNAL": 500,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
}
"""gRPC's codes by the HTTP status that says the same."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What an HTTP server answered: its status, and the seconds it asked to be left alone (None: it did not say)."""

    status: int
    retry_after: float | None = None


def read_http(error: BaseException, now: datetime | None = None) -> HttpAnswer | None:
    """Return the answer an exception carries, or None if it carries none.

    Knows requests, httpx and whatever has ``.response.status_code``; aiohttp (``.status``), urllib (``.code`` with
    ``.headers``), botocore (``.response["ResponseMetadata"]``) and gRPC (``.code().name``).
    """
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        metadata = response.get("ResponseMetadata") or {}
        return _answer(metadata.get("HTTPStatusCode"), metadata.get("HTTPHeaders"), now)
    code = getattr(error, "code", None)
    if callable(code):
        return _grpc(code)
    candidates = (
        (getattr(response, "status_code", None), getattr(response, "headers", None)),
        (getattr(error, "status_code", None), getattr(error, "headers", None)),
        (getattr(error, "status", None), getattr(error, "headers", None)),
        (code if hasattr(error, "headers") else None, getattr(error, "headers", None)),
    )
    return next((found for status, headers in candidates if (found := _answer(status, headers, now))), None)


def _grpc(code: Any) -> HttpAnswer | None:
    try:
        name = getattr(code(), "name", None)
    except TypeError:
        return None
    status = GRPC_STATUSES.get(name) if isinstance(name, str) else None
    return None if status is None else HttpAnswer(status)


def _answer(status: Any, headers: Any, now: datetime | None) -> HttpAnswer | None:
    if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 599:
        return None
    return HttpAnswer(int(status), _retry_after(headers, now))


def _retry_after(headers: Any, now: datetime | None) -> float | None:
    text = _header(headers, "Retry-After")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        until = _date(text)
        start = _date(_header(headers, "Date") or "") or now
        return None if until is None or start is None else max(0.0, (until - start).total_seconds())
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _header(headers: Any, name: str) -> str | None:
    try:
        pairs = list(headers.items())
    except (AttributeError, TypeError):
        return None
    return next((str(value).strip() for key, value in pairs if str(key).lower() == name.lower()), None)


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
