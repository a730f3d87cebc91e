"""The example application with tasks that only tests need: retries, rejections, large results, processes that die."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery.exceptions import Ignore, Reject

from celery_patterns.examples import ledger
from celery_patterns.examples.app import app

app.conf.update(
    task_time_limit=float(os.environ.get("TEST_TIME_LIMIT", "0")) or None,
    result_backend_transport_options={"global_keyprefix": os.environ["TEST_KEY_PREFIX"]}
    if "TEST_KEY_PREFIX" in os.environ
    else {},
    # By default kombu looks every 100 s only for what has timed out.
    broker_transport_options={
        "visibility_timeout": float(os.environ["TEST_VISIBILITY_SECONDS"]),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
    if "TEST_VISIBILITY_SECONDS" in os.environ
    else {},
)


@app.task(bind=True, name="test.retry_once", max_retries=1)  # type: ignore[untyped-decorator]
def retry_once(self: Any, value: Any) -> list[Any]:
    """Fail once; the second run returns its argument and what its message carried."""
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return [value, self.request.args]


@app.task(name="test.reject")  # type: ignore[untyped-decorator]
def reject() -> None:
    """Reject the message for good."""
    raise Reject("no", requeue=False)


@app.task(name="test.ignore")  # type: ignore[untyped-decorator]
def ignore() -> None:
    """End without a result."""
    raise Ignore


@app.task(name="test.text")  # type: ignore[untyped-decorator]
def text(length: int) -> str:
    """Return a text of that length."""
    return "x" * length


@app.task(bind=True, name="test.die")  # type: ignore[untyped-decorator]
def die(self: Any, key: str) -> None:
    """Kill the process that runs it."""
    ledger._write(self, key, "start")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, name="test.compute")  # type: ignore[untyped-decorator]
def compute(self: Any, key: str, seconds: float) -> None:
    """Keep the processor busy and switch to no greenlet."""
    ledger._write(self, key, "start")
    until = time.monotonic() + seconds  # noqa: TID251 - a task measures its own time
    while time.monotonic() < until:  # noqa: TID251 - see above
        sum(range(1000))
    ledger._write(self, key, "finish")


class Odd(Exception):  # noqa: N818 - it is odd
    """An exception that cannot be pickled."""

    def __init__(self, message: str) -> None:
        """Hold something that pickle refuses."""
        super().__init__(message)
        self.unpicklable = lambda: None


@app.task(name="test.odd")  # type: ignore[untyped-decorator]
def odd() -> None:
    """Fail with an exception that cannot be pickled."""
    raise Odd("odd one")


@app.task(name="test.slow_limited", rate_limit="1/h")  # type: ignore[untyped-decorator]
def slow_limited() -> None:
    """Run once an hour."""
