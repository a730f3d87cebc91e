"""celery-singleton: a task of which one is queued for its arguments."""

from __future__ import annotations

import importlib
import os
from typing import Any

from celery import Celery

from benchmarks.patterns.apps.scene import main, settings, work

library: Any = importlib.import_module("celery_singleton")

app = Celery("singleton")
app.conf.update(settings(), singleton_backend_url=os.environ["LOCKS_URL"])


@app.task(base=library.Singleton, bind=True, name="report", default_retry_delay=0, unique_on=["key"])  # type: ignore[untyped-decorator]
def report(self: Any, key: str, seconds: float) -> str:
    """Run for some seconds."""
    return work(key, self.request.id, seconds)


def call(key: str, seconds: float) -> tuple[str, str]:
    """Publish it, or get the handle of the one that has the lock."""
    return str(report.delay(key, seconds).id), ""


if __name__ == "__main__":
    main(call, "SINGLETONLOCK_*")
