"""Tasks of an application that knows nothing of patterns, on a broker that waits long before it delivers again."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("patient", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(
    task_acks_late=True, worker_prefetch_multiplier=2, worker_cancel_long_running_tasks_on_connection_loss=False
)


@app.task(name="plain_fail")  # type: ignore[untyped-decorator]
def plain_fail(key: str) -> None:
    """Fail."""
    raise ValueError(key)


@app.task(name="plain_ok")  # type: ignore[untyped-decorator]
def plain_ok(key: str) -> str:
    """Do it."""
    return key
