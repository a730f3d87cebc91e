"""Named places where a test can end or stop the process, to show that this loses and repeats nothing right there.

Off unless the setting names a point. Never set in production.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Failpoint(StrEnum):
    """The places that matter: between two effects that cannot be made at once."""

    AFTER_PUBLISH = "after-publish"
    """Messages are with the broker; neither status nor checkpoint knows."""
    BEFORE_CHECKPOINT = "before-checkpoint"
    AFTER_CHECKPOINT = "after-checkpoint"
    """The checkpoint is written, status is not."""
    BEFORE_FINAL_STATUS = "before-final-status"
    """The run is over; nobody has been told."""


class FailpointAction(StrEnum):
    """What happens there."""

    END = "end"
    HOLD = "hold"
    """The event loop stands still for some seconds; other threads, the watchdog's among them, do not."""


Reached = Callable[[Failpoint], None]
"""Called with each place as it is passed."""


def never(_: Failpoint) -> None:
    """Do nothing: how every process runs that is not part of a test."""
