"""The application of these tests: every task writes what it does into a Redis list that no part under test touches."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery, signals, states

from celery_patterns.resilience.fallback import Fallback
from celery_patterns.tasks import (
    Batch,
    DeadLetter,
    Idempotent,
    PatternTask,
    PayloadLimit,
    Progress,
    RateLimit,
    Retry,
    Singleton,
    Timeout,
    batch_task,
    current_context,
    install,
    tracing,
)

clock = time.time  # noqa: TID251 - evidence from other processes
LEDGER = "ledger"
LEASE_SECONDS = 1.0

app = Celery("shop")
app.conf.update(
    broker_url=os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:1/0"),
    result_backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://127.0.0.1:1/1"),
    task_acks_late=True,
    task_retry_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={}
    if os.environ.get("SHOP_PLAIN_BROKER")
    else {
        "visibility_timeout": float(os.environ.get("SHOP_VISIBILITY", "30")),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    result_extended=True,
)
install(app, lease=LEASE_SECONDS)


def task(**declared: Any) -> Callable[[Callable[..., Any]], Any]:
    """Declare a pattern task."""
    # Not shared: other applications of the same test process have tasks of these names too.
    return app.task(base=PatternTask, shared=False, **declared)  # type: ignore[no-any-return]


class Flaky(Exception):  # noqa: N818
    """What may be tried again."""


def write(event: str, **fields: Any) -> None:
    """Add to the ledger."""
    with redis.Redis.from_url(os.environ["LEDGER_URL"]) as client:
        client.rpush(LEDGER, json.dumps({"event": event, "pid": os.getpid(), "at": clock(), **fields}))


@task(name="bare", policies=[])
def bare(value: Any = None) -> Any:
    return value


@task(name="charge", policies=[Idempotent(key="{order}")])
def charge(order: str, seconds: float = 0.0, *, fail: bool = False) -> dict[str, Any]:
    write("start", key=order, fence=current_context().fence)
    time.sleep(seconds)
    if fail:
        raise Flaky(order)
    write("finish", key=order)
    return {"order": order, "paid": True}


@task(name="charge_strictly", policies=[Idempotent(result="conflict", in_flight="reject")])
def charge_strictly(order: str, seconds: float = 0.0) -> str:
    write("start", key=order)
    time.sleep(seconds)
    return order


@task(name="charge_quietly", policies=[Idempotent(key="{order}", result="ignore")])
def charge_quietly(order: str) -> str:
    write("start", key=order)
    return order


@task(name="charge_oddly", policies=[Idempotent(key="{order}")])
def charge_oddly(order: str) -> object:
    write("start", key=order)
    return object()


def _work(key: str, seconds: float) -> str:
    write("start", key=key, fence=current_context().fence)
    time.sleep(seconds)
    write("finish", key=key)
    return key


@task(name="report", policies=[Singleton(key="{customer}")], max_retries=3, default_retry_delay=0)
def report(customer: str, seconds: float = 0.0) -> str:
    return _work(customer, seconds)


@task(name="report_once", policies=[Singleton(key="{customer}", scope="both", on_duplicate="raise")])
def report_once(customer: str, seconds: float = 0.0) -> str:
    return _work(customer, seconds)


@task(
    name="report_shared",
    policies=[Singleton(key="{customer}", scope="both", on_duplicate="return_existing")],
)
def report_shared(customer: str, seconds: float = 0.0) -> str:
    return _work(customer, seconds)


@task(
    name="report_later",
    policies=[
        Singleton(key="{customer}", scope="both", on_duplicate="raise"),
        Retry(on=Flaky, max=1, base="3s", jitter="none"),
    ],
)
def report_later(customer: str) -> int:
    if current_context().attempt == 1:
        raise Flaky(customer)
    return current_context().attempt


@task(name="report_long", policies=[Singleton(scope="both"), PayloadLimit(above="1KB")])
def report_long(text: str) -> int:
    return len(text)


@task(
    name="refresh",
    policies=[Singleton(key="{customer}", scope="running", on_duplicate="coalesce")],
)
def refresh(customer: str, seconds: float = 0.0) -> str:
    return _work(customer, seconds)


@task(
    name="strict_report",
    policies=[Singleton(key="{customer}", on_duplicate="coalesce"), Retry(on=Flaky, max=1, base=0)],
)
def strict_report(customer: str, seconds: float, *, kill: bool = False) -> dict[str, Any]:
    call = current_context().call
    _work(customer, seconds)
    if kill and call.attempt == 1:
        os.kill(os.getpid(), 9)
    return {"attempt": call.attempt, "deferred": call.deferrals > 0}


@task(name="call_api", policies=[RateLimit("20/s", key="api:{tenant}", burst=5)])
def call_api(tenant: str) -> float:
    write("call", key=tenant)
    return clock()


@task(name="call_rarely", policies=[RateLimit("1/m", key="{tenant}", on_limit="drop")])
def call_rarely(tenant: str) -> str:
    write("call", key=tenant)
    return tenant


@task(name="call_strictly", policies=[RateLimit("1/m", key="strict:{tenant}", on_limit="raise"), DeadLetter()])
def call_strictly(tenant: str) -> str:
    return tenant


@task(name="call_patiently", policies=[RateLimit("1/m", key="p:{tenant}", max_defer="1s")])
def call_patiently(tenant: str) -> str:
    return tenant


@task(
    bind=True,
    name="fetch",
    policies=[Retry(on=(Flaky, OSError), never=(ConnectionResetError,), max=3, base="10ms", jitter="none")],
)
def fetch(self: PatternTask, key: str, failures: int, error: str = "Flaky") -> dict[str, Any]:
    write("start", key=key, attempt=self.context.attempt)
    if self.context.attempt <= failures:
        raise {"Flaky": Flaky, "reset": ConnectionResetError, "key": KeyError}[error](key)
    return {"attempt": self.context.attempt, "id": self.request.id, "header": self.request.celery_patterns}


@task(
    name="fetch_rarely",
    policies=[Retry(on=Flaky, max=1, base=0), RateLimit("2/s", key="fr:{key}", burst=1)],
)
def fetch_rarely(key: str) -> dict[str, Any]:
    call = current_context().call
    write("start", key=key, attempt=call.attempt, deferrals=call.deferrals)
    if call.attempt == 1:
        raise Flaky(key)
    return {"attempt": call.attempt, "deferrals": call.deferrals}


@task(bind=True, name="retry_by_hand", policies=[Singleton(key="{key}")], max_retries=2)
def retry_by_hand(self: PatternTask, key: str) -> int:
    write("start", key=key)
    if self.context.attempt < 3:
        raise self.retry(countdown=0)
    return self.context.attempt


@task(name="slow", policies=[Timeout(soft="500ms", hard="2s"), Singleton(key="{key}")])
def slow(key: str, seconds: float, *, stubborn: bool = False) -> str:
    write("start", key=key)
    end = clock() + seconds
    while clock() < end:
        try:
            time.sleep(0.05)
        except Exception:
            if not stubborn:
                raise
    return key


@task(name="crawl", policies=[Progress(), Retry(on=Flaky, base=0)])
def crawl(pages: int, *, fail_at: int | None = None, kill_at: int | None = None) -> dict[str, Any]:
    context = current_context()
    begin = (context.restored or {"page": 0})["page"]
    write("start", key=context.task_id, begin=begin, deliveries=context.deliveries)
    for page in range(begin, pages):
        if page == fail_at and context.attempt == 1:
            raise Flaky(str(page))
        if page == kill_at and context.deliveries == 1:
            os.kill(os.getpid(), 9)
        context.progress(page + 1, pages, f"page {page}")
        context.checkpoint({"page": page + 1})
    return {"begin": begin, "deliveries": context.deliveries}


@task(name="wait_for_cancel", policies=[Progress()])
def wait_for_cancel() -> None:
    write("start", key=current_context().task_id)
    while True:
        current_context().heartbeat()
        time.sleep(0.02)


@app.task(name="collect", shared=False)  # type: ignore[untyped-decorator]
def collect(values: list[Any]) -> list[Any]:
    return values


# ------------------------------------------------------------------------------------- payloads, letters, logs, batches


@task(
    name="doomed",
    policies=[DeadLetter(), Retry(on=Flaky, max=1, base=0)],
)
def doomed(how: str) -> None:
    if how == "raise":
        raise KeyError(how)
    if how == "flaky":
        raise Flaky(how)
    if how == "kill":
        os.kill(os.getpid(), 9)
    time.sleep(30)


@task(name="measure", policies=[PayloadLimit(above="1KB"), Retry(on=Flaky, base=0)])
def measure(text: str, *, other: str = "", fail_first: bool = False) -> dict[str, Any]:
    context = current_context()
    if fail_first and context.attempt == 1:
        raise Flaky(text)
    return {"text": len(text), "other": len(other), "attempt": context.attempt}


@task(
    name="measure_patiently",
    policies=[PayloadLimit(above="1KB"), Retry(on=OSError, base="100ms", cap="200ms", max=100)],
)
def measure_patiently(text: str) -> int:
    return len(text)


@task(name="produce", policies=[PayloadLimit(results="1KB"), Retry(on=Exception, base=0), DeadLetter()])
def produce(key: str, size: int) -> str:
    write("produce", key=key)
    return key[0] * size


@task(
    name="produce_patiently",
    policies=[PayloadLimit(results="1KB"), Retry(on=OSError, base="100ms", cap="200ms", max=100)],
)
def produce_patiently(key: str, size: int) -> str:
    write("produce", key=key)
    return key[0] * size


@task(
    name="produce_once",
    policies=[
        PayloadLimit(results="1KB"),
        Idempotent(key="{key}"),
        Retry(on=OSError, base="100ms", cap="200ms", max=100),
    ],
)
def produce_once(key: str, size: int) -> str:
    write("produce", key=key)
    return key[0] * size


def _spare(error: Exception, key: str, size: int, spare: int) -> str:
    write("spare", key=key, size=size, error=type(error).__name__)
    return key[0] * spare


@task(
    name="produce_instead",
    policies=[
        PayloadLimit(results="1KB"),
        Retry(on=OSError, base="100ms", cap="200ms", max=100),
        Fallback(function=_spare),
        DeadLetter(),
    ],
)
def produce_instead(key: str, size: int, spare: int) -> str:
    """Fail, if no size is given; what comes in the place of a failure has a size of its own."""
    write("produce", key=key, spare=spare)
    if not size:
        raise Flaky(key)
    return key[0] * size


@task(name="overtaken", policies=[Retry(on=Flaky, max=1, base=0)])
def overtaken(key: str) -> None:
    raise Flaky(key)


@app.task(bind=True, name="overtaken_by_hand", shared=False, max_retries=1)  # type: ignore[untyped-decorator]
def overtaken_by_hand(self: Any, key: str) -> None:
    raise self.retry(exc=Flaky(key), countdown=0)


@signals.after_task_publish.connect(weak=False)  # type: ignore[untyped-decorator]
def wait_to_be_overtaken(sender: str = "", headers: Any = None, **_: Any) -> None:
    """Hold the first try of these tasks, whose message is out, until the second has ended."""
    if not sender.startswith("overtaken") or not headers["retries"]:
        return
    until = clock() + 20
    while app.backend.get_task_meta(headers["id"], cache=False)["status"] != states.FAILURE and clock() < until:
        time.sleep(0.02)


@task(name="work_a_while", policies=[])
def work_a_while() -> None:
    time.sleep(0.5)


@task(name="weigh", policies=[PayloadLimit()])
def weigh(value: Any) -> Any:
    return [len(each) for each in value] if isinstance(value, list) else len(value)


@batch_task(app, name="produce_rows", max_items=3, max_wait="200ms", policies=[PayloadLimit(results="1KB")])
def produce_rows(items: Batch) -> None:
    for index, item in enumerate(items):
        items.ok(index, "r" * item.kwargs["size"])


@task(bind=True, name="talk", policies=[])
def talk(_self: PatternTask, word: str) -> str:
    logging.getLogger("shop").info("said %s", word)
    return word


@batch_task(app, name="insert_rows", max_items=5, max_wait="300ms", key="{table}", policies=[DeadLetter()])
def insert_rows(items: Batch) -> None:
    write("batch", key=items[0].kwargs["table"], size=len(items), rows=[item.kwargs["row"] for item in items])
    for index, item in enumerate(items):
        row = item.kwargs["row"]
        if row == "bad":
            items.fail(index, Flaky(row))
        elif row == "again" and item.tries == 1:
            items.retry(index)
        elif row == "explode":
            raise Flaky("explode")
        elif row == "kill" and item.tries == 1:
            time.sleep(0.3)  # the main process learns that the task began
            os.kill(os.getpid(), 9)
        elif row == "slow":
            time.sleep(1)
            items.ok(index, {"row": row, "tries": item.tries})
        elif row != "silent":
            items.ok(index, {"row": row, "tries": item.tries})


if os.environ.get("SHOP_SPANS"):
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    tracing.enable(
        exporter=lambda: ConsoleSpanExporter(
            out=open(os.environ["SHOP_SPANS"], "a"),  # noqa: SIM115, PTH123
            formatter=lambda span: json.dumps(json.loads(span.to_json())) + "\n",
        )
    )
