"""What doctor finds: values, worst first."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Tasks are lost, run twice, or do not run."""
    WARNING = "warning"
    """They will be when something else goes wrong."""
    OK = "ok"
    UNKNOWN = "unknown"
    """It could not be looked at."""


ORDER = (Level.ERROR, Level.WARNING, Level.UNKNOWN, Level.OK)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    check: str
    """Short and stable, for scripts: ``eviction``, ``persistence``, ``visibility`` ..."""
    message: str
    """What was seen."""
    advice: str = ""
    """What to change."""


def error(check: str, message: str, advice: str) -> Finding:
    """Make an error."""
    return Finding(Level.ERROR, check, message, advice)


def warning(check: str, message: str, advice: str) -> Finding:
    """Make a warning."""
    return Finding(Level.WARNING, check, message, advice)


def ok(check: str, message: str) -> Finding:
    """Make a finding that all is well."""
    return Finding(Level.OK, check, message)


def unknown(check: str, message: str, advice: str = "") -> Finding:
    """Make a finding that something could not be looked at."""
    return Finding(Level.UNKNOWN, check, message, advice)
