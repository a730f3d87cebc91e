"""A worker whose clock is wrong says so: Celery's dates (eta, countdown, expires) are by the workers' own clocks."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from celery_patterns.store import Store, StoreError

logger = logging.getLogger(__name__)

SKEW_SECONDS: Final = 2.0
"""Clocks that NTP keeps differ by far less, and asking takes less than that."""


def look(store: Store) -> threading.Thread:
    """Compare the clocks once, beside the worker's loop."""
    thread = threading.Thread(target=_tell, args=(store,), name="clock-skew", daemon=True)
    thread.start()
    return thread


def _tell(store: Store) -> None:
    try:
        before = time.time()
        now = store.call(store.client.time)
        after = time.time()
    except StoreError as error:
        logger.info("this worker's clock is not compared with the store's: %s", error)
        return
    ahead = (before + after) / 2 - (now[0] + now[1] / 1e6)
    if abs(ahead) > SKEW_SECONDS + (after - before) / 2:
        logger.warning(
            "this worker's clock is %.0f s %s that of the store (%s): tasks with an eta, a countdown or an expiry, "
            "retries and deferrals come too early or too late; synchronise the clocks of the nodes (NTP)",
            abs(ahead),
            "ahead of" if ahead > 0 else "behind",
            store.address,
        )
