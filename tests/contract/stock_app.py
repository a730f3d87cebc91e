"""A Celery application as anybody writes one, without anything of this project: the stock worker of contract tests."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("stock", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.broker_connection_retry_on_startup = True


@app.task(name="stock.describe", bind=True)  # type: ignore[untyped-decorator]
def describe(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what the worker was given."""
    request = self.request
    return {
        "args": list(args),
        "kwargs": kwargs,
        "id": request.id,
        "timelimit": list(request.timelimit),
        "queue": request.delivery_info["routing_key"],
        "header": request.celery_operator,
        "published_at": request.published_at,
        "ignore_result": request.ignore_result,
    }


@app.task(name="stock.fail")  # type: ignore[untyped-decorator]
def fail() -> None:
    """Raise."""
    raise LookupError("nothing here")
