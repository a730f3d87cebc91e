"""Tasks that write down when they run, in a Redis list that no part under test reads or writes: evidence for tests.

The list's server is named by LEDGER_URL; an entry is JSON: ``{"id", "key", "event", "worker", "pid", "at"}``, where
event is ``start`` or ``finish``. A task that runs once has one of each.
"""

from __future__ import annotations

import json
import os
import time

import redis

from celery_patterns.examples.app import app

ENV_LEDGER_URL = "LEDGER_URL"
LEDGER_KEY = "ledger"


@app.task(bind=True, name="examples.ledger.record")  # type: ignore[untyped-decorator]
def record(self: object, key: str, seconds: float = 0.0, result: object = None) -> object:
    """Write a start, wait, write a finish; returns ``result``, or the key if that is None."""
    _write(self, key, "start")
    time.sleep(seconds)
    _write(self, key, "finish")
    return key if result is None else result


@app.task(bind=True, name="examples.ledger.record_early", acks_late=False)  # type: ignore[untyped-decorator]
def record_early(self: object, key: str, seconds: float = 0.0) -> str:
    """Do the same with the message acknowledged before the task runs, as is Celery's default."""
    _write(self, key, "start")
    time.sleep(seconds)
    _write(self, key, "finish")
    return key


def _write(task: object, key: str, event: str) -> None:
    url = os.environ.get(ENV_LEDGER_URL)
    if not url:
        raise LookupError(f"the variable {ENV_LEDGER_URL} names no Redis to write the ledger to")
    request = task.request  # type: ignore[attr-defined]
    entry = {
        "id": request.id,
        "key": key,
        "event": event,
        "worker": request.hostname,
        "pid": os.getpid(),
        "at": time.time(),
    }
    client = redis.Redis.from_url(url)
    try:
        client.rpush(LEDGER_KEY, json.dumps(entry))
    finally:
        client.close()
