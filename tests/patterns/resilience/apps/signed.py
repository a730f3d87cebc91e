"""An application that signs its messages and results, with keys from a folder."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

keys = Path(os.environ["SIGNED_KEYS"])

app = Celery("signed", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.update(
    security_key=str(keys / "key.pem"),
    security_certificate=str(keys / "signed.crt"),
    security_cert_store=str(keys / "*.crt"),
    task_serializer="auth",
    accept_content=["auth"],
    result_serializer=os.environ.get("SIGNED_RESULTS", "auth"),
    result_accept_content=[os.environ.get("SIGNED_RESULTS_ACCEPTED", "auth")],
    event_serializer="json",
    task_acks_late=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
app.setup_security()


@app.task(name="double")  # type: ignore[untyped-decorator]
def double(number: int) -> int:
    """Double it."""
    return number * 2
