"""An application that uses every pattern, and what its callers do with it (``python entitled.py FILE``)."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import chord, group
from kombu import common, entity

from celery_patterns import protocol
from celery_patterns.resilience.budget import FleetBudget
from celery_patterns.resilience.bulkhead_policy import Limit
from celery_patterns.resilience.circuit_policy import Circuit
from celery_patterns.resilience.policies import WorkerLost
from celery_patterns.tasks import (
    Batch,
    DeadLetter,
    Idempotent,
    PatternApp,
    PayloadLimit,
    Progress,
    RateLimit,
    Retry,
    Singleton,
    batch_task,
    current_context,
)

WITHIN = 40.0
"""Seconds for one answer: the machine may be loaded."""

queue: Any = entity.Queue
broadcast: Any = common.Broadcast
app = PatternApp("entitled", lease=1.0)
app.conf.update(
    broker_url=os.environ["CELERY_BROKER_URL"],
    result_backend=os.environ["CELERY_RESULT_BACKEND"],
    task_queues=[queue("celery"), queue("lonely", routing_key="lonely"), broadcast("news")],
    task_acks_late=True,
    task_track_started=True,
    task_send_sent_event=True,
    worker_send_task_events=True,
    worker_prefetch_multiplier=1,
    result_extended=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": 30,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "global_keyprefix": os.environ.get("ENTITLED_PREFIX", ""),
    },
    result_backend_transport_options={"global_keyprefix": os.environ.get("ENTITLED_RESULTS_PREFIX", "")},
)
task: Callable[..., Callable[[Callable[..., Any]], Any]] = app.pattern_task
payments = FleetBudget("payments", "10%/1m+5")


class Flaky(Exception):  # noqa: N818
    """What may be tried again."""


@app.task(name="plain")  # type: ignore[untyped-decorator]
def plain(value: Any) -> Any:
    """Give it back."""
    return value


@app.task(name="by_hand", bind=True, max_retries=2)  # type: ignore[untyped-decorator]
def by_hand(self: Any, countdown: float) -> int:
    """Come again once by Celery's own means."""
    if self.request.retries == 0:
        raise self.retry(countdown=countdown)
    return int(self.request.retries)


@task(name="charge", policies=[Idempotent(key="{order}")])
def charge(order: str) -> str:
    """Run once for each order."""
    return order


@task(name="report", policies=[Singleton(key="{customer}", scope="both", on_duplicate="return_existing")])
def report(customer: str, seconds: float) -> str:
    """Run alone for each customer."""
    time.sleep(seconds)
    return customer


@task(name="refresh", policies=[Singleton(key="{customer}", scope="running", on_duplicate="coalesce")])
def refresh(customer: str, seconds: float) -> str:
    """Run alone, and once more for all that came meanwhile."""
    time.sleep(seconds)
    return customer


@task(name="call_api", policies=[RateLimit("20/s", key="{tenant}", burst=2)])
def call_api(tenant: str) -> str:
    """Run so often."""
    return tenant


@task(name="fetch", policies=[payments, Retry(on=Flaky, max=2, base="10ms", budget=payments)])
def fetch(name: str) -> list[Any]:
    """Fail the first time."""
    if current_context().attempt == 1:
        raise Flaky(name)
    return [name, current_context().attempt]


@task(name="crawl", policies=[Progress(), WorkerLost("requeue")])
def crawl(pages: int) -> int:
    """Say how far it is; its first process is killed half way."""
    context = current_context()
    begin = (context.restored or {"page": 0})["page"]
    for page in range(begin, pages):
        if page == pages // 2 and context.deliveries == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        context.progress(page + 1, pages)
        context.checkpoint({"page": page + 1})
        context.heartbeat()
    return int(begin)


@task(name="measure", policies=[PayloadLimit(above="1KB", results="1KB")])
def measure(text: str) -> str:
    """Take and give what is too large for a message."""
    return text * 2


@task(name="pay", policies=[Circuit("bank", min_calls=2, open_for="500ms"), Retry(on=Flaky, max=1, base="10ms")])
def pay(fail: bool) -> str:  # noqa: FBT001 - a task's argument
    """Pay, if the bank works."""
    if fail:
        raise Flaky("bank")
    return "paid"


@task(name="print_one", policies=[Limit(key="printer", limit=1)])
def print_one(page: int) -> int:
    """Use the only printer."""
    time.sleep(0.1)
    return page


@task(name="doomed", policies=[DeadLetter()])
def doomed(name: str) -> str:
    """Fail unless it is mended."""
    if name != "mended":
        raise ValueError(name)
    return name


@task(name="die", policies=[DeadLetter(), WorkerLost("fail")])
def die() -> None:
    """Kill the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


@batch_task(app, name="insert", max_items=3, max_wait="200ms", policies=[DeadLetter()])
def insert(items: Batch) -> None:
    """Take rows together."""
    for index, item in enumerate(items):
        row = item.kwargs["row"]
        if row == "bad":
            items.fail(index, ValueError(row))
        elif row == "again" and item.tries == 1:
            items.retry(index)
        else:
            items.ok(index, row)


@app.task(name="wait")  # type: ignore[untyped-decorator]
def wait(seconds: float) -> None:
    """Keep its slot busy."""
    time.sleep(seconds)


def call() -> dict[str, Any]:
    """Use everything as a caller does; returns what came back."""

    def got(result: Any) -> Any:
        value = result.get(timeout=WITHIN, interval=0.05, propagate=False)
        return type(value).__name__ if isinstance(value, Exception) else value

    twice = [report.delay("ann", 0.3) for _ in range(2)]
    coalesced = [refresh.delay("bob", 0.3) for _ in range(3)]
    limited = [call_api.delay("t") for _ in range(6)]
    printed = [print_one.delay(page) for page in range(3)]
    rows = [insert.apply_async(kwargs={"row": row}) for row in ("a", "again", "bad", "b")]
    identity = protocol.TaskIdentity("0e7b4bd4-4a06-4d53-8e9d-36a1a3a0d2f5", run=1, step="s", index=0, attempt=1)
    header = {protocol.TASK_HEADER: identity.to_header()}
    workflow = by_hand.apply_async([0.2], task_id=identity.task_id, headers=header)
    said: dict[str, Any] = {
        "plain": got(plain.delay(1)),
        "group": got(group(plain.s(n) for n in range(3)).apply_async()),
        "chord": got(chord([plain.s(n) for n in range(3)], plain.s())()),
        "nested": got(chord([group(plain.s(0), plain.s(1)), plain.s(2)], plain.s())()),
        "failed chord": got(chord([doomed.s("part"), plain.s(2)], plain.s())()),
        "retry": got(by_hand.delay(0)),
        "late retry": got(by_hand.delay(0.2)),
        "eta": got(plain.apply_async(["eta"], countdown=0.5)),
        "workflow": got(workflow),
        "broadcast": got(plain.apply_async(["all"], queue="news", declare=[app.amqp.queues["news"].exchange])),
        "idempotent": [got(charge.delay("o1")) for _ in range(2)],
        "singleton": [got(each) for each in twice],
        "coalesced": [got(each) for each in coalesced],
        "rate": [got(each) for each in limited],
        "budget": got(fetch.delay("f")),
        "progress": got(crawl.delay(6)),
        "payload": len(got(measure.delay("x" * 3000))),
        "circuit": [got(pay.delay(fail)) for fail in (True, True, False)],
        "bulkhead": [got(each) for each in printed],
        "batch": [got(each) for each in rows],
        "letter": got(doomed.delay("once")),
        "killed": got(die.delay()),
    }
    forgotten = plain.delay("forgotten")
    got(forgotten)
    forgotten.forget()
    revoked = plain.apply_async(["never"], countdown=60)
    revoked.revoke()
    saved = group(plain.s(n) for n in range(2)).apply_async()
    saved.save()
    got(saved)
    saved.forget()
    return said


if __name__ == "__main__":
    app.set_current()
    Path(sys.argv[1]).write_text(json.dumps(call()))
