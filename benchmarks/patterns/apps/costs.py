"""The same empty task bare, as a pattern task without policies, and under four of them; how long each took its child.

``task_prerun`` and ``task_postrun`` are the marks: between them lies all that the task's process does for the task and
that policies add to. ``timings`` gives the lists of times and begins new ones: of the clock, and of the processor,
which a busy machine changes less.
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, signals

from celery_patterns.resilience.circuit_policy import Circuit
from celery_patterns.tasks import Idempotent, PatternTask, RateLimit, Singleton, install

app = Celery("costs")
app.conf.update(
    broker_url=os.environ.get("CELERY_BROKER_URL"),
    result_backend=os.environ.get("CELERY_RESULT_BACKEND"),
    broker_connection_retry_on_startup=True,
)
install(app)

POLICIES = [
    Idempotent(key="{order}"),
    Singleton(key="{customer}"),
    RateLimit("1000000/s", key="bench"),
    Circuit("bench"),
]

_began = (0, 0)
_spent: dict[str, list[tuple[float, float]]] = {}


@app.task(name="plain", ignore_result=True)  # type: ignore[untyped-decorator]
def plain(order: int, customer: int) -> int:
    """Do nothing, as a task of Celery's."""
    return order + customer


@app.task(base=PatternTask, name="unguarded", policies=[], ignore_result=True)  # type: ignore[untyped-decorator]
def unguarded(order: int, customer: int) -> int:
    """Do nothing, as a pattern task without policies."""
    return order + customer


@app.task(base=PatternTask, name="guarded", policies=POLICIES, ignore_result=True)  # type: ignore[untyped-decorator]
def guarded(order: int, customer: int) -> int:
    """Do nothing under four policies."""
    return order + customer


@app.task(  # type: ignore[untyped-decorator]
    base=PatternTask,
    name="single",
    policies=[Singleton(key="{customer}", scope="both", on_duplicate="raise")],
    ignore_result=True,
)
def single(order: int, customer: int) -> int:
    """Do nothing, once at a time for a customer, decided when it is published."""
    return order + customer


@app.task(name="timings")  # type: ignore[untyped-decorator]
def timings() -> dict[str, list[tuple[float, float]]]:
    """Return the milliseconds of every task since the last call, of the clock and of the processor, by name."""
    found = {name: list(times) for name, times in _spent.items() if name != "timings"}
    _spent.clear()
    return found


@signals.task_prerun.connect  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    global _began  # noqa: PLW0603 - one child runs one task at a time
    _began = (time.perf_counter_ns(), time.thread_time_ns())


@signals.task_postrun.connect  # type: ignore[untyped-decorator]
def _end(sender: Any, **_: Any) -> None:
    now = (time.perf_counter_ns(), time.thread_time_ns())
    _spent.setdefault(sender.name, []).append(((now[0] - _began[0]) / 1e6, (now[1] - _began[1]) / 1e6))
