"""Tasks that do as they are told, in an application that knows nothing of bad messages."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

app = Celery("sturdy")
app.conf.update(
    broker_url=os.environ["CELERY_BROKER_URL"],
    result_backend=os.environ["CELERY_RESULT_BACKEND"],
    task_acks_late=os.environ.get("STURDY_ACKS", "late") == "late",
    worker_prefetch_multiplier=4,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
)


def note(key: str) -> None:
    """Count a start, apart from what is tested."""
    with redis.Redis.from_url(os.environ["LEDGER_URL"]) as client:
        client.incr(key)


@app.task(name="ok")  # type: ignore[untyped-decorator]
def ok(key: str) -> str:
    """Do it."""
    note(key)
    return key


@app.task(name="wait")  # type: ignore[untyped-decorator]
def wait(key: str, until: str) -> str:
    """Begin, and go on when the ledger has a key."""
    note(key)
    with redis.Redis.from_url(os.environ["LEDGER_URL"]) as client:
        while not client.exists(until):
            time.sleep(0.05)
    return key


@app.task(name="text")  # type: ignore[untyped-decorator]
def text(key: str, size: int) -> str:
    """Return a long text."""
    note(key)
    return "x" * size
