"""The same with this project's patterns; and a batch whose worker is killed while it runs."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from celery import Celery

from benchmarks.patterns.apps.scene import main, settings, work
from celery_patterns.tasks import Batch, PatternTask, Singleton, batch_task, current_context, install
from celery_patterns.tasks.errors import DuplicateCall

app = Celery("ours")
app.conf.update(settings())
install(app, store=os.environ["LOCKS_URL"], lease=float(os.environ["LEASE"]))

ONE = Singleton(key="{key}", scope="both", on_duplicate="raise")


@app.task(base=PatternTask, bind=True, name="report", default_retry_delay=0, policies=[ONE])  # type: ignore[untyped-decorator]
def report(self: Any, key: str, seconds: float) -> str:
    """Run for some seconds."""
    return work(key, self.request.id, seconds)


@batch_task(app, name="insert", max_items=10, max_wait="300ms", key="{table}")
def insert(items: Batch) -> None:
    """Run for some seconds the first time, then at once."""
    work(str(items[0].kwargs["table"]), current_context().task_id, 60.0)
    for index, item in enumerate(items):
        items.ok(index, item.kwargs["row"])


def call(key: str, seconds: float) -> tuple[str, str]:
    """Publish it."""
    try:
        return str(report.delay(key, seconds).id), ""
    except DuplicateCall as error:
        return "", f"DuplicateCall: {error}"


def rows(table: str, number: int, within: float) -> list[str]:
    """Publish the rows of a batch, wait, and return their states."""
    results = [insert.delay(table=table, row=row) for row in range(number)]
    end = time.monotonic() + within  # noqa: TID251 - a deadline
    while time.monotonic() < end and not all(result.ready() for result in results):  # noqa: TID251
        time.sleep(0.02)
    return [str(result.state) for result in results]


if __name__ == "__main__":
    if sys.argv[1] == "rows":
        print(json.dumps({"states": rows(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))}), flush=True)
        os._exit(0)
    main(call, "*singleton*")
