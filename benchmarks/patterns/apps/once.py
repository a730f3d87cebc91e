"""celery-once: a task that is queued once for its arguments."""

from __future__ import annotations

import importlib
import os
from typing import Any

from celery import Celery

from benchmarks.patterns.apps.scene import main, settings, work

once: Any = importlib.import_module("celery_once")

app = Celery("once")
app.conf.update(settings())
app.conf.ONCE = {
    "backend": "celery_once.backends.Redis",
    "settings": {"url": os.environ["LOCKS_URL"]},
}


@app.task(base=once.QueueOnce, bind=True, name="report", default_retry_delay=0, once={"keys": ["key"]})  # type: ignore[untyped-decorator]
def report(self: Any, key: str, seconds: float) -> str:
    """Run for some seconds."""
    return work(key, self.request.id, seconds)


def call(key: str, seconds: float) -> tuple[str, str]:
    """Publish it."""
    try:
        return str(report.delay(key, seconds).id), ""
    except once.AlreadyQueued as error:
        return "", f"AlreadyQueued, {error.countdown:.0f} s left"


if __name__ == "__main__":
    main(call, "qo_*")
