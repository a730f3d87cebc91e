"""An application whose tasks fail in all the ways there are."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import redis
from celery.exceptions import Reject

from celery_patterns.resilience.policies import DeadLetters, WorkerLost
from celery_patterns.resilience.task_letters import task_letters
from celery_patterns.tasks import PatternApp, Retry
from celery_patterns.tasks.dead_letter import DeadLetter

app = PatternApp("shaky")
app.conf.update(
    broker_url=os.environ["CELERY_BROKER_URL"],
    result_backend=os.environ["CELERY_RESULT_BACKEND"],
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
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


@app.pattern_task(name="ok", dead_letter=DeadLetters())  # type: ignore[untyped-decorator]
def ok(key: str) -> str:
    """Do it."""
    note(key)
    return key


@app.pattern_task(name="fail", dead_letter=DeadLetters(), retry=Retry(max=1, base="10ms"))  # type: ignore[untyped-decorator]
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


@app.pattern_task(name="reject", dead_letter=DeadLetters())  # type: ignore[untyped-decorator]
def reject(key: str) -> None:
    """Reject the message for good."""
    note(key)
    raise Reject("no", requeue=False)


@app.pattern_task(name="slow", dead_letter=DeadLetters(), time_limit=0.5)  # type: ignore[untyped-decorator]
def slow(key: str) -> None:
    """Run into the time limit."""
    note(key)
    time.sleep(30)


@app.pattern_task(  # type: ignore[untyped-decorator]
    name="die", dead_letter=DeadLetters(), retry=Retry(max=1), lost=WorkerLost("retry", delay="0s")
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


@app.pattern_task(name="fail_bare", dead=DeadLetter(to=task_letters))  # type: ignore[untyped-decorator]
def fail_bare(key: str, amount: int = 0) -> None:
    """Fail, and keep it without the agent."""
    note(key)
    raise ValueError(f"the amount {amount} is wrong")
