"""A process that stands for leader and, while it leads, writes a line a hundred times a second."""

from __future__ import annotations

import asyncio
import sys

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.kubernetes.connection import ApiConnection
from celery_operator.adapters.lease import LeaderElection, LeadershipLost, LeaseTimes
from celery_operator.adapters.logging import configure_logging
from celery_operator.adapters.watchdog import EXIT_LEASE_LOST
from celery_operator.services.ports import ObjectKey


async def stand(kubeconfig: str) -> None:
    """Lead until the lease is lost."""
    api = await ApiConnection.open(kubeconfig)
    times = LeaseTimes(duration=2.0, deadline=1.0, retry=0.2, look=0.1)
    clock = SystemClock()
    election = LeaderElection(api, ObjectKey("here", "lease"), "candidate", clock=clock, times=times)
    await election.acquire()
    holding = asyncio.create_task(election.hold())
    while not holding.done():
        if election.leads:
            sys.stdout.write(f"acted {clock.monotonic()}\n")
            sys.stdout.flush()
        await asyncio.sleep(0.01)
    await holding


configure_logging("warning")
try:
    asyncio.run(stand(sys.argv[1]))
except LeadershipLost:  # the election may see it before the watchdog does; the operator ends alike in both cases
    sys.exit(EXIT_LEASE_LOST)
