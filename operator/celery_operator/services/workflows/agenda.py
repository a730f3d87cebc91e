"""When a run does what, beside answering to news."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from celery_operator.services.workflows.sweep import FIRST_INTERVAL


@dataclass(slots=True)
class Agenda:
    """When the next thing of each sort is due, whatever else happens."""

    sweep: datetime
    swept: datetime
    """When the last sweep began, or the run."""
    status: datetime
    checkpoint: datetime
    servers: datetime
    """Not sooner it is asked whether a server that does not answer is another one by now."""
    progress: datetime
    """Last sign of progress."""
    sweep_interval: timedelta = FIRST_INTERVAL
