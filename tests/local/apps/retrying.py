"""The example application with a task that Celery itself retries and that notes which of its retries ran."""

from __future__ import annotations

import os
from typing import Any

import redis

from celery_patterns.examples.app import app


@app.task(bind=True, name="test.retry_until", max_retries=5)  # type: ignore[untyped-decorator]
def retry_until(self: Any, ledger: str, last: int, countdown: float) -> int:
    """Note Celery's count of retries in a Redis list; retry up to the last, which returns its number."""
    retries = int(self.request.retries)
    with redis.Redis.from_url(os.environ["LEDGER_URL"]) as client:
        client.rpush(ledger, retries)
    if retries < last:
        raise self.retry(countdown=countdown)
    return retries
