"""An application that knows nothing of this project, as it lies in a user's own image."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery import Celery

app = Celery("shop", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


@app.task(name="shop.add")  # type: ignore[untyped-decorator]
def add(x: int, y: int) -> int:
    """Add."""
    return x + y


@app.task(name="shop.fail")  # type: ignore[untyped-decorator]
def fail(message: str) -> None:
    """Raise."""
    raise RuntimeError(message)


@app.task(bind=True, name="shop.retry", max_retries=1)  # type: ignore[untyped-decorator]
def retry_once(self: Any) -> str:
    """Succeed at the second try."""
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return "ok"


@app.task(name="shop.die")  # type: ignore[untyped-decorator]
def die() -> None:
    """Kill the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="shop.nap")  # type: ignore[untyped-decorator]
def nap(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "rested"
