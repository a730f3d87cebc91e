"""Tasks of the shop that say what they held when somebody kills what runs them."""

from __future__ import annotations

import time
from typing import Any

from celery_patterns.resilience.bulkhead_policy import Limit
from celery_patterns.tasks import Idempotent, Singleton, current_context
from patterns.tasks.shop import app, task, write

__all__ = ["app"]


def _work(key: str, seconds: float) -> dict[str, Any]:
    fence = current_context().fence
    write("start", key=key, fence=fence)
    time.sleep(seconds)
    write("finish", key=key, fence=fence)
    return {"fence": fence}


@task(name="mortal.pay", policies=[Idempotent(key="{order}")])
def pay(order: str, seconds: float = 0.0) -> dict[str, Any]:
    return _work(order, seconds)


@task(name="mortal.report", policies=[Singleton(key="{customer}")], max_retries=0)
def report(customer: str, seconds: float = 0.0) -> dict[str, Any]:
    return _work(customer, seconds)


@task(name="mortal.export", policies=[Limit("exports:{name}", 1)], max_retries=0)
def export(name: str, seconds: float = 0.0) -> dict[str, Any]:
    return _work(name, seconds)
