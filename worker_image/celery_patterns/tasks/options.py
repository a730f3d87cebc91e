"""Checks of policies' options: each names the option, what was expected and what was given."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from celery_patterns.tasks.policy import PolicyError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*(ms|s|m|h|d)")
_BYTES = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "kib": 1024, "mib": 1024**2}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]*)", re.IGNORECASE)

Duration = float | int | str | timedelta
"""Seconds, a text such as "250ms", "30s", "10m", "24h", "7d", or a timedelta."""

Size = int | str
"""Bytes, or a text such as "64KB" (1000 bytes each) or "64KiB"."""


def duration(option: str, value: Any, *, low: float = 0.0, high: float = 366 * 86_400.0) -> float:
    """Return seconds.

    Raises:
        PolicyError: If it is no duration from ``low`` to ``high``.
    """
    seconds = _seconds(value)
    if seconds is None or not math.isfinite(seconds) or not low <= seconds <= high:
        raise PolicyError(
            f"{option}: expected seconds or a text such as '250ms', '30s', '10m', '24h' "
            f"from {low:g} to {high:g} s, got {value!r}"
        )
    return seconds


def _seconds(value: Any) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(match[1]) * _UNITS[match[2]] if match else None


def size(option: str, value: Any, *, low: int = 1) -> int:
    """Return bytes.

    Raises:
        PolicyError: If it is no size of at least ``low`` bytes.
    """
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match and match[2].lower() in _BYTES:
        number: Any = int(float(match[1]) * _BYTES[match[2].lower()])
    else:
        number = value
    if not isinstance(number, int) or isinstance(number, bool) or number < low:
        raise PolicyError(f"{option}: expected bytes or a text such as '64KB', at least {low}, got {value!r}")
    return number


def whole(option: str, value: Any, *, low: int = 0, high: int = 1_000_000_000) -> int:
    """Return a whole number.

    Raises:
        PolicyError: If it is none from ``low`` to ``high``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise PolicyError(f"{option}: expected a whole number from {low} to {high}, got {value!r}")
    return value


def choice(option: str, value: Any, allowed: Iterable[str]) -> str:
    """Return one of some words.

    Raises:
        PolicyError: If it is another.
    """
    words = tuple(allowed)
    if value not in words:
        raise PolicyError(f"{option}: expected one of {', '.join(words)}, got {value!r}")
    return str(value)


def exceptions(option: str, value: Any) -> tuple[type[BaseException], ...]:
    """Return a tuple of exception types; one type may stand alone.

    Raises:
        PolicyError: If something else is among them.
    """
    types = value if isinstance(value, (tuple, list)) else (value,)
    for each in types:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise PolicyError(f"{option}: expected exception types such as (OSError, TimeoutError), got {each!r}")
    return tuple(types)


def text(option: str, value: Any) -> str:
    """Return a text that is not empty.

    Raises:
        PolicyError: If it is none.
    """
    if not isinstance(value, str) or not value.strip():
        raise PolicyError(f"{option}: expected a text, got {value!r}")
    return value
