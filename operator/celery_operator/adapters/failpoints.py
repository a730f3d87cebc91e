"""Ends the process at a failpoint, as a crash would: no cleanup, no farewell."""

from __future__ import annotations

import os
from pathlib import Path

from celery_operator.services.failpoints import Failpoint, Reached, never

EXIT_CODE = 70
"""EX_SOFTWARE: tells such an end from others in a pod's status."""

HITS_FILE = Path("/tmp/celery-operator-failpoint")  # noqa: S108 - the pod's own emptyDir: it outlives the container
"""One byte for each process that has ended here."""


def ending_at(point: str | None, hits: int, *, hits_file: Path = HITS_FILE) -> Reached:
    """Return what to call with each failpoint that is passed; ``point`` ends the process, ``hits`` times in all.

    Raises ValueError if there is no such failpoint.
    """
    if point is None:
        return never
    deadly = Failpoint(point)

    def reached(passed: Failpoint) -> None:
        if passed is deadly and (not hits_file.exists() or hits_file.stat().st_size < hits):
            with hits_file.open("ab") as file:
                file.write(b".")
            os._exit(EXIT_CODE)

    return reached
