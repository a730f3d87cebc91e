"""An application with Celery's own settings and one batch, to which a test lets happen what it wants."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import before_task_publish

from celery_patterns.tasks import Batch, batch_task, install
from celery_patterns.tasks.policy import Policy

app = Celery("plain")
install(app, lease=3)


def die_once(where: str) -> None:
    """SIGKILL this process if the test wants that here and it has not happened yet."""
    mark = Path(os.environ.get("PLAIN_MARK", "/nonexistent"))
    if os.environ.get("PLAIN_KILL") == where and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Away(Policy):
    """What takes the results is away the first three times."""

    def returned(self, task: Any, request: Any, value: Any) -> Any:  # type: ignore[explicit-override]
        """Fail, as a connection does."""
        del task, request
        mark = Path(os.environ["PLAIN_MARK"])
        failed = mark.read_text() if mark.exists() else ""
        if os.environ["PLAIN_KILL"] == "results" and len(failed) < 3:
            mark.write_text(failed + "x")
            raise ConnectionError("nobody takes results")
        return value


@batch_task(app, name="plain.add", max_items=10, max_wait="500ms", max_tries=2, time_limit=3, policies=[Away()])
def add(items: Batch) -> None:
    """Return twice each number, and how often that was tried."""
    die_once("flush")
    mark = Path(os.environ["PLAIN_MARK"])
    if os.environ["PLAIN_KILL"] == "limit" and not mark.exists():
        mark.touch()
        time.sleep(60)
    for index, item in enumerate(items):
        items.ok(index, [2 * item.args[0], item.tries] if item.args[0] != "odd" else object())


@before_task_publish.connect  # type: ignore[untyped-decorator]
def watch(sender: Any = None, **_: Any) -> None:
    if sender == "plain.add.flush":
        die_once("ask")
