"""The exit statuses, which scripts may rely on."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """What ``celery-patterns`` returns to the shell."""

    WELL = 0
    FOUND = 1
    """There is something to do: doctor found an error, a letter or circuit is not there, a letter was not replayed."""
    WRONG = 2
    """The command line, the application or a setting is wrong."""
    UNREACHABLE = 3
    """Broker, store or result backend does not answer."""


class CommandError(Exception):
    """A command cannot go on; its text is for people.

    Args:
        text: What is wrong and what to do.
        status: The exit status.
    """

    def __init__(self, text: str, status: Exit = Exit.WRONG) -> None:
        super().__init__(text)
        self.status = status
