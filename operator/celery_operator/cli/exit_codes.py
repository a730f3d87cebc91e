"""What the exit status says. Part of the interface: scripts read it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit status of every command."""

    SUCCESS = 0
    """All workflows succeeded; all files are valid."""
    FAILED = 1
    """A workflow failed."""
    INVALID = 2
    """A file, a resource or an option is wrong; nothing was started."""
    UNFINISHED = 3
    """It could not be run to its end: out of time, without progress, or without a Redis."""
    INTERRUPTED = 130
    """Ctrl-C, SIGTERM or SIGHUP (a terminal that is closed)."""
