"""A shop whose tasks keep promises: ``celery -A shop worker -c 4``."""

# ruff: noqa: INP001 - a program beside its application, no package

from __future__ import annotations

import tempfile
import time
from typing import Any

from celery_patterns.tasks import (
    Batch,
    DeadLetter,
    Idempotent,
    PatternApp,
    Progress,
    RateLimit,
    Retry,
    Singleton,
    Timeout,
    batch_task,
    current_context,
)

# What is too large for a message lies in this folder; with workers on several machines it is a bucket (s3://...).
app = PatternApp("shop", include=["partners"], blob=f"file://{tempfile.gettempdir()}/shop")


class PartnerBusy(Exception):  # noqa: N818 - it is no fault
    """The payment provider asks for patience."""


@app.pattern_task(
    name="shop.charge",
    once=Idempotent(key="{order}", ttl="24h"),
    rate=RateLimit("50/s", key="payments", burst=10),
    retry=Retry(on=(PartnerBusy, ConnectionError), max=5, base="50ms"),
    timeout=Timeout(soft="50s", hard="60s"),
)
def charge(order: str, cents: int) -> dict[str, Any]:
    """Charge an order once, however often this is called; the provider is busy at first."""
    context = current_context()
    if context.attempt == 1:
        raise PartnerBusy(order)
    # The fence goes to whatever can refuse an older one, here the provider.
    return {"order": order, "cents": cents, "attempt": context.attempt, "fenced": context.fence is not None}


@app.pattern_task(name="shop.stock_report", one=Singleton(key="{shelf}", scope="both", on_duplicate="return_existing"))
def stock_report(shelf: str) -> str:
    """Count a shelf; whoever asks meanwhile gets the same report."""
    time.sleep(0.3)
    return f"shelf {shelf} is counted"


@app.pattern_task(name="shop.import_catalogue", progress=Progress(), retry=Retry(on=ConnectionError, base="10ms"))
def import_catalogue(rows: int) -> int:
    """Import rows, from where the last try got to; returns the row at which this try began."""
    context = current_context()
    first = int((context.restored or {"row": 0})["row"])
    for row in range(first, rows):
        if row == rows // 2 and context.attempt == 1:
            raise ConnectionError("the supplier hung up")
        context.progress(row + 1, rows)
        context.checkpoint({"row": row + 1})
    return first


@app.pattern_task(name="shop.refund", retry=Retry(max=5, base="50ms"), letters=DeadLetter())
def refund(order: str, cents: int) -> str:
    """Pay back; a wrong amount is wrong at every try, so it is kept as a dead letter at once."""
    if cents <= 0:
        raise ValueError(f"{cents} cents cannot be paid back")
    return order


@batch_task(app, name="shop.track", max_items=50, max_wait="200ms")
def track(items: Batch) -> None:
    """Write page views, many at a time."""
    for index in range(len(items)):
        items.ok(index, {"written with": len(items) - 1})
