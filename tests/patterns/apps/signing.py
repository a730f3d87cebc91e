"""An application that signs its messages and results; whose keys these are, and whom it trusts, is told it."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

keys = Path(os.environ["SIGNING_KEYS"])

app = Celery("signing")
app.conf.update(
    broker_url=os.environ["CELERY_BROKER_URL"],
    result_backend=os.environ["CELERY_RESULT_BACKEND"],
    security_key=str(keys / "key.pem"),
    security_certificate=str(keys / "own.crt"),
    security_cert_store=str(keys / "*.crt"),
    task_serializer="auth",
    accept_content=["auth"],
    result_serializer=os.environ.get("SIGNING_RESULTS", "auth"),
    result_accept_content=["auth"],
    event_serializer="json",
    task_acks_late=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
app.setup_security()


@app.task(name="double")  # type: ignore[untyped-decorator]
def double(number: int) -> int:
    """Double it."""
    return number * 2
