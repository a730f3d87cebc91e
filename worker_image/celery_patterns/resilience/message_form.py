"""The form of a task message, looked at before Celery takes it: what is wrong, and what was expected. Pure.

Celery believes a message's fields. One of a wrong type can then end the worker (a time limit that is no number), keep a
slot for ever (a count of retries that is none) or make the message disappear (an id that is none).
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from celery.utils.time import maybe_iso8601

from celery_patterns import protocol

EARLIEST: Final = datetime.min.replace(tzinfo=UTC) + timedelta(days=2)
LATEST: Final = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)
"""No time zone moves a date by more: one between these can be expressed in any of them."""

TEXT, WHOLE, LIST, MAPPING = "a text", "a whole number from 0", "a list", "a mapping"

_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = 80


class MalformedMessage(ValueError):  # noqa: N818 - it says what the message is
    """A message that can be read is no task message: names the field, what was expected and what is there."""


def check(headers: Mapping[str, Any], payload: Any) -> None:
    """Check a message that names a task.

    Args:
        headers: The message's headers.
        payload: Its decoded body.

    Raises:
        MalformedMessage: If Celery could not run it.
    """
    old = isinstance(payload, Mapping) and ("task" not in headers or "args" in payload)
    if old:  # version 1 of Celery's protocol, or the form between the two
        fields: Mapping[str, Any] = {**payload, **headers}
        _check_fields(fields)
        _check_arguments(payload.get("args", ()), payload.get("kwargs", {}), payload)
        return
    _check_fields(headers)
    if not isinstance(payload, (list, tuple)) or len(payload) != 3:
        raise _wrong("the body", "a list of args, kwargs and embed, or a mapping with 'task' and 'id'", payload)
    _check_arguments(*payload)


def _check_fields(fields: Mapping[str, Any]) -> None:
    for name in ("task", "id"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise _wrong(name, TEXT, fields.get(name))
    retries = fields.get("retries")
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or retries < 0):
        raise _wrong("retries", WHOLE, retries)
    _check_limits(fields.get("timelimit"))
    for name in ("eta", "expires"):
        _check_date(name, fields.get(name))
    _check_kind("stamped_headers", LIST, fields.get("stamped_headers"))
    _check_kind("stamps", MAPPING, fields.get("stamps"))


def _check_limits(limits: Any) -> None:
    if limits is None:
        return
    two = isinstance(limits, (list, tuple)) and len(limits) == 2
    if not two or not all(limit is None or _is_limit(limit) for limit in limits):
        raise _wrong("timelimit", "a list of two, hard and soft, each null or seconds above 0", limits)


def _is_limit(value: Any) -> bool:
    # 0 is Celery's "none".
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _check_date(name: str, value: Any) -> None:
    if value is None:
        return
    try:
        date = maybe_iso8601(value)
        fits = EARLIEST <= date.replace(tzinfo=UTC) - (date.utcoffset() or timedelta()) <= LATEST
    except (AttributeError, TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        example = datetime(2026, 11, 22, 12, tzinfo=UTC).isoformat()
        raise _wrong(name, f"a date such as {example}", value)


def _check_arguments(args: Any, kwargs: Any, embed: Any) -> None:
    if not isinstance(args, (list, tuple)):
        raise _wrong("args", LIST, args)
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise _wrong("kwargs", "a mapping of names", kwargs)
    _check_kind("embed", MAPPING, embed)
    embed = embed or {}
    for name in ("callbacks", "errbacks", "chain"):
        _check_kind(name, LIST, embed.get(name))
        for signature in embed.get(name) or ():
            # An errback may be the bare name of a task.
            if not isinstance(signature, Mapping) and not (name == "errbacks" and isinstance(signature, str)):
                raise _wrong(name, "a list of signatures", embed[name])
    _check_kind("chord", MAPPING, embed.get("chord"))


def _check_kind(name: str, kind: str, value: Any) -> None:
    expected = Mapping if kind == MAPPING else Sequence
    if value is not None and (not isinstance(value, expected) or isinstance(value, (str, bytes))):
        raise _wrong(name, f"{kind} or null", value)


def _wrong(field: str, expected: str, value: Any) -> MalformedMessage:
    there = "nothing" if value is None else f"the {type(value).__name__} {_short.repr(value)}"
    return MalformedMessage(protocol.mask_url(f"{field}: expected {expected}, got {there}"))
