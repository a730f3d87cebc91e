"""The example application: ``celery -A celery_patterns.examples.app:app worker``.

Broker and result backend come from CELERY_BROKER_URL and CELERY_RESULT_BACKEND. JSON is the only format it speaks.
"""

from __future__ import annotations

import os

from celery import Celery

app = Celery(
    "examples",
    include=["celery_patterns.examples.tasks", "celery_patterns.examples.words", "celery_patterns.examples.ledger"],
)
app.conf.update(
    broker_url=os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0"),
    result_backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/1"),
    accept_content=["json"],
    result_accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    result_extended=False,
    # A worker that dies gives its messages back; the guard keeps a workflow's task from running twice.
    task_acks_late=True,
    # What a worker holds beyond its slots is work that no other worker can take.
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    # Kubernetes restarts a pod that never becomes ready; giving up after 100 tries would do it without a reason.
    broker_connection_max_retries=None,
)
