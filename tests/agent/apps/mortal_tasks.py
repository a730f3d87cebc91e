"""Tasks whose process is killed in their first run, one for each thing that Celery may do then."""

from __future__ import annotations

import time
from typing import Any

from celery_patterns.examples import ledger
from celery_patterns.examples.app import app


def _run(task: Any, key: str) -> str:
    """Last in the first run until somebody kills the process; end at once in any other."""
    ledger._write(task, key, "start")
    if not task.request.retries and not task.request.delivery_info.get("redelivered"):
        time.sleep(60)
    ledger._write(task, key, "finish")
    return key


@app.task(bind=True, name="mortal.fail", acks_late=True)  # type: ignore[untyped-decorator]
def fail(self: Any, key: str) -> str:
    """Celery's default: a lost process is a failure."""
    return _run(self, key)


@app.task(bind=True, name="mortal.requeue", acks_late=True, reject_on_worker_lost=True)  # type: ignore[untyped-decorator]
def requeue(self: Any, key: str) -> str:
    """The message goes back to its queue."""
    return _run(self, key)


@app.task(  # type: ignore[untyped-decorator]
    bind=True, name="mortal.retry", acks_late=True, retry_on_worker_lost=True, max_retries=1, default_retry_delay=0
)
def retry(self: Any, key: str) -> str:
    """A retry, of which there is one."""
    return _run(self, key)
