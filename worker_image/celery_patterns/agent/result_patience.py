"""The end of a task waits for its result to be stored: a result backend without memory, or restarting, is no failure.

Celery tries again where a connection is lost, and nowhere else: out of memory, a task that has done its work has no
result and its message is gone. Installed in the processes that run tasks only, since the main process must not wait.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from celery_patterns import protocol
from celery_patterns.agent import redis_errors

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 30.0
"""As long as a restart with a few gigabytes to load takes; the slot stays taken."""

PAUSE_SECONDS: Final = (0.1, 2.0)
"""First and longest pause between two attempts."""

MARK: Final = "celery_patterns_patience"


def install(backend: type[Any]) -> None:
    """Make the results of one class of backend wait, in this process; twice is once."""
    if hasattr(backend, MARK):
        return
    store = backend.store_result

    def store_result(self: Any, task_id: str, *args: Any, **kwargs: Any) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause, longest = PAUSE_SECONDS
        told = False
        while True:
            try:
                stored = store(self, task_id, *args, **kwargs)
            except redis_errors.PASSING as error:
                why = protocol.mask_url(str(error))
                if time.monotonic() + pause > deadline:
                    logger.critical("the result of task %s is lost, it cannot be stored: %s", task_id, why)
                    raise
                if not told:
                    logger.error("the result of task %s cannot be stored yet: %s", task_id, why)  # noqa: TRY400
                    told = True
            else:
                if told:
                    logger.warning("the result of task %s is stored now", task_id)
                return stored
            time.sleep(pause)
            pause = min(pause * 2, longest)

    backend.store_result = store_result
    setattr(backend, MARK, True)
