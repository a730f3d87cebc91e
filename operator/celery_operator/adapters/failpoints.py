"""At a failpoint, ends the process as a crash would (no cleanup, no farewell), or lets it stand still for a while."""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog

from celery_operator.services.failpoints import Failpoint, FailpointAction, Reached, never

EXIT_CODE = 70
"""EX_SOFTWARE: tells such an end from others in a pod's status."""

HOLD_SECONDS = 5.0
"""Time enough for a test to stop the process (SIGSTOP), and with the time since the last renewal of the Lease still
less than its deadline: a process that nobody stops goes on as if nothing had been. A process that was stopped for
longer finds its sleep over when it is continued, and goes on in that moment."""

HITS_FILE = Path("/tmp/celery-operator-failpoint")  # noqa: S108 - the pod's own emptyDir: it outlives the container
"""One byte for each process that came to its failpoint."""

log = structlog.get_logger(__name__)


def acting_at(point: str | None, hits: int, action: FailpointAction, *, hits_file: Path = HITS_FILE) -> Reached:
    """Return what to call with each failpoint that is passed; at ``point`` it acts, ``hits`` times in all.

    Raises ValueError if there is no such failpoint.
    """
    if point is None:
        return never
    chosen = Failpoint(point)

    def reached(passed: Failpoint) -> None:
        if passed is not chosen or (hits_file.exists() and hits_file.stat().st_size >= hits):
            return
        with hits_file.open("ab") as file:
            file.write(b".")
        if action is FailpointAction.END:
            os._exit(EXIT_CODE)
        log.info("standing at a failpoint", failpoint=passed.value)
        time.sleep(HOLD_SECONDS)
        log.info("going on from a failpoint", failpoint=passed.value)

    return reached
