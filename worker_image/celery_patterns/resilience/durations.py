"""Durations as people write them: ``"30s"``, ``"5m"``, ``"1h30m"``."""

from __future__ import annotations

import re

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_seconds(value: str | float) -> float:
    """Return a duration in seconds; a number is seconds already.

    Raises:
        ValueError: If it is negative, or a text that is no sum of parts like ``1h30m``.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value < float("inf"):
            raise ValueError(f"expected a duration of 0 seconds or more, got {value!r}")
        return float(value)
    text = str(value).strip()
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"expected a duration like '30s', '5m' or '1h30m', got {value!r}")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)
