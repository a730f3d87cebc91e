"""An application with Celery's own settings and one batch, whose processes get SIGKILL once where a test says."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import before_task_publish

from celery_patterns.tasks import Batch, batch_task, install

app = Celery("plain")
install(app, lease=3)


def die_once(where: str) -> None:
    """SIGKILL this process if the test wants that here and it has not happened yet."""
    mark = Path(os.environ.get("PLAIN_MARK", "/nonexistent"))
    if os.environ.get("PLAIN_KILL") == where and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@batch_task(app, name="plain.add", max_items=10, max_wait="500ms")
def add(items: Batch) -> None:
    """Return twice each number."""
    die_once("flush")
    for index, item in enumerate(items):
        items.ok(index, 2 * item.args[0])


@before_task_publish.connect  # type: ignore[untyped-decorator]
def watch(sender: Any = None, **_: Any) -> None:
    if sender == "plain.add.flush":
        die_once("ask")
