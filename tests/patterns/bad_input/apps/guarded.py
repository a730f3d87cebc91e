"""Tasks under policies that need the store, each with its own answer to its absence."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

from celery_patterns.resilience.bulkhead_policy import Limit
from celery_patterns.resilience.circuit_policy import Circuit
from celery_patterns.tasks import Idempotent, RateLimit, Singleton, install

app = Celery("guarded")
app.conf.update(
    broker_url=os.environ["CELERY_BROKER_URL"],
    result_backend=os.environ["CELERY_RESULT_BACKEND"],
    task_acks_late=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
install(app, lease=2)


def note(key: str) -> str:
    """Count a start, apart from what is tested."""
    with redis.Redis.from_url(os.environ["LEDGER_URL"]) as client:
        client.incr(key)
    return key


POLICIES = {
    "rate_open": RateLimit("1000/s", key="a:{key}"),
    "circuit_closed": Circuit("outside"),
    "rate_closed": RateLimit("1000/s", key="b:{key}", if_store_down="closed"),
    "idempotent": Idempotent(key="{key}"),
    "singleton": Singleton(key="{key}"),
    "bulkhead": Limit(key="place", limit=100),
    "circuit_open": Circuit("outside-too", if_store_down="open", open_for="1s"),
}

for name, policy in POLICIES.items():

    @app.pattern_task(name=name, policies=[policy])  # type: ignore[untyped-decorator]
    def run(key: str) -> str:
        """Do it, and note that."""
        return note(key)


@app.pattern_task(name="limited", policies=[RateLimit("1/m", key="limited:{lane}", burst=3, on_limit="drop")])  # type: ignore[untyped-decorator]
def limited(lane: str) -> str:
    """Run, if there is a turn."""
    return note(lane)


@app.pattern_task(name="alone", policies=[Singleton(key="{key}")])  # type: ignore[untyped-decorator]
def alone(key: str, seconds: float) -> str:
    """Take a while, longer than the lease if told so."""
    note(key)
    time.sleep(seconds)
    return key


@app.pattern_task(name="paid", policies=[Idempotent(key="{key}", in_flight="reject")])  # type: ignore[untyped-decorator]
def paid(key: str, seconds: float) -> str:
    """The same, once for each key."""
    note(key)
    time.sleep(seconds)
    return key
