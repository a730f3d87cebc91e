"""What the shop does with others who are slow, away or in a crash; ``shop`` includes it."""

# ruff: noqa: INP001 - a module beside its application, no package

from __future__ import annotations

import os
import signal
import time

from shop import app

from celery_patterns.resilience.budget import FleetBudget
from celery_patterns.resilience.bulkhead import Bulkhead
from celery_patterns.resilience.bulkhead_policy import Limit
from celery_patterns.resilience.circuit_policy import Circuit
from celery_patterns.resilience.fallback import Fallback
from celery_patterns.resilience.policies import WorkerLost
from celery_patterns.store import Store
from celery_patterns.tasks import PayloadLimit, Retry, current_context

LAST_PRICES = {"lamp": 4900}


def last_price(error: Exception, article: str) -> str:
    """Answer for the supplier; the error says why it was not the one to do so."""
    return f"{LAST_PRICES[article]} ({type(error).__name__})"


@app.pattern_task(
    name="shop.price",
    circuit=Circuit("supplier", min_calls=3, open_for="1m", on_open="fail"),
    otherwise=Fallback(function=last_price),
)
def price(article: str) -> str:
    """Ask the supplier, who is away: after three calls in vain nobody asks for a minute."""
    raise ConnectionError(f"no answer about a {article}")


database = Bulkhead(Store(app), "reports-db", limit=2)
"""The same two places as the task's, for code outside of tasks."""


@app.pattern_task(name="shop.export", places=Limit("reports-db", 2))
def export(month: str) -> tuple[str, int]:
    """Read a month from a database that bears two readers; returns how many there were."""
    time.sleep(0.2)
    return month, database.taken()


gateway = FleetBudget("mail-gateway", "10%/1m+2")


@app.pattern_task(name="shop.mail", tries=gateway, retry=Retry(on=ConnectionError, max=5, base="10ms", budget=gateway))
def mail(order: str) -> None:
    """Mail an invoice through a gateway that is away: together they try twice more, not five times each."""
    raise ConnectionError(f"no answer about order {order}", current_context().attempt)


@app.pattern_task(
    name="shop.thumbnail",
    payload=PayloadLimit(above="64KB", results="64KB"),
    lost=WorkerLost("retry", delay="100ms"),
    retry=Retry(max=2),
)
def thumbnail(picture: str) -> str:
    """Make a picture smaller; its first try ends as under a decoder that takes all memory."""
    if current_context().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return picture[::2]
