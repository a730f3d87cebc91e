"""The example application with tasks that come again later: by themselves, by the patterns, after a lost process."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery_patterns.examples.app import app
from celery_patterns.tasks import PatternTask


@app.task(bind=True, name="retried.later", max_retries=3)  # type: ignore[untyped-decorator]
def later(self: Any, **options: Any) -> None:
    """Retry with these options."""
    raise self.retry(**options)


@app.task(bind=True, name="retried.deferred", base=PatternTask, policies=[])  # type: ignore[untyped-decorator]
def deferred(self: Any, seconds: float) -> None:
    """Be sent away, as by a policy of the patterns."""
    self.send_again(seconds, deferral=True)


@app.task(  # type: ignore[untyped-decorator]
    name="retried.killed", retry_on_worker_lost=True, max_retries=1, default_retry_delay=600
)
def killed() -> None:
    """Kill the process that runs it; Celery's main process publishes the retry."""
    os.kill(os.getpid(), signal.SIGKILL)
