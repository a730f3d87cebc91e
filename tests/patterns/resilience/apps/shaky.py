"""An application whose tasks fail in all the ways there are."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import redis
from celery.exceptions import Reject

from celery_patterns.resilience.policies import WorkerLost
from celery_patterns.tasks import DeadLetter, PatternApp, RateLimit, Retry

app = PatternApp("shaky")
app.conf.update(
    broker_url=os.environ["CELERY_BROKER_URL"],
    result_backend=os.environ["CELERY_RESULT_BACKEND"],
    task_acks_late=True,
    worker_prefetch_multiplier=int(os.environ.get("SHAKY_PREFETCH", "1")),
    worker_soft_shutdown_timeout=float(os.environ.get("SHAKY_SOFT_SHUTDOWN", "0")),
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": int(os.environ.get("SHAKY_VISIBILITY", "2")),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
    if os.environ["CELERY_BROKER_URL"].startswith("redis")
    else {},
)


def note(key: str) -> None:
    """Count a start, apart from what is tested."""
    client = redis.Redis.from_url(os.environ["LEDGER_URL"])
    try:
        client.incr(key)
    finally:
        client.close()


@app.pattern_task(name="ok", dead_letter=DeadLetter())  # type: ignore[untyped-decorator]
def ok(key: str) -> str:
    """Do it."""
    note(key)
    return key


@app.pattern_task(name="fail", dead_letter=DeadLetter(), retry=Retry(on=ValueError, max=1, base="10ms"))  # type: ignore[untyped-decorator]
def fail(key: str, amount: int = 0) -> str:
    """Fail, unless the amount is right."""
    note(key)
    if amount != 42:
        raise ValueError(f"the amount {amount} is wrong")
    return key


@app.task(name="plain_fail")  # type: ignore[untyped-decorator]
def plain_fail(key: str) -> None:
    """Fail, without policies."""
    note(key)
    raise ValueError("plain")


@app.pattern_task(name="reject", dead_letter=DeadLetter())  # type: ignore[untyped-decorator]
def reject(key: str) -> None:
    """Reject the message for good."""
    note(key)
    raise Reject("no", requeue=False)


@app.pattern_task(name="slow", dead_letter=DeadLetter(), time_limit=0.5)  # type: ignore[untyped-decorator]
def slow(key: str) -> None:
    """Run into the time limit."""
    note(key)
    time.sleep(30)


@app.pattern_task(  # type: ignore[untyped-decorator]
    name="die", dead_letter=DeadLetter(), retry=Retry(max=1), lost=WorkerLost("retry", delay="0s")
)
def die(key: str) -> None:
    """Kill the process that runs it."""
    note(key)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="die_whole")  # type: ignore[untyped-decorator]
def die_whole(key: str) -> None:
    """Kill the whole worker, as the kernel does with a container that uses too much memory."""
    note(key)
    os.killpg(os.getpgid(0), signal.SIGKILL)


@app.task(name="wait")  # type: ignore[untyped-decorator]
def wait(key: str, seconds: float) -> Any:
    """Take a while."""
    note(key)
    time.sleep(seconds)


@app.pattern_task(name="refused", dead_letter=DeadLetter(), rate=RateLimit("1/h", key="{key}", on_limit="raise"))  # type: ignore[untyped-decorator]
def refused(key: str) -> None:
    """Run once an hour."""
    note(key)


@app.pattern_task(name="picky", dead_letter=DeadLetter(reasons=("timeout",)))  # type: ignore[untyped-decorator]
def picky(key: str) -> None:
    """Fail in a way that is not to be kept."""
    note(key)
    raise ValueError(key)


@app.pattern_task(name="rebound", lost=WorkerLost("requeue"))  # type: ignore[untyped-decorator]
def rebound(key: str) -> None:
    """Kill its process; the message goes back each time."""
    note(key)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="give_back")  # type: ignore[untyped-decorator]
def give_back(key: str, times: int) -> int:
    """Ask to come again, so often."""
    note(key)
    client = redis.Redis.from_url(os.environ["LEDGER_URL"])
    try:
        begun = int(client.get(key) or 0)  # type: ignore[arg-type]
    finally:
        client.close()
    if begun <= times:
        raise Reject("not now", requeue=True)
    return begun
