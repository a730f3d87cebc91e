"""Sentry: a task's failure with its correlation, once it has failed for good.

sentry.enable()             # SENTRY_DSN names the project; needs celery-operator[sentry]
"""

from __future__ import annotations

import os
from typing import Any

from celery import current_task, signals

from celery_patterns.tasks.logs import correlation


def enable(dsn: str | None = None, **options: Any) -> None:
    """Report what tasks raise.

    Args:
        dsn: The project; None: SENTRY_DSN. Without either nothing is sent.
        options: Further options of ``sentry_sdk.init``.

    Raises:
        ModuleNotFoundError: If sentry-sdk is not installed.
    """
    import sentry_sdk  # noqa: PLC0415 - optional; say at once that it is missing
    from sentry_sdk.integrations.celery import CeleryIntegration  # noqa: PLC0415 - see above

    def begin(**_: Any) -> None:
        sentry_sdk.init(
            dsn=dsn or os.environ.get("SENTRY_DSN") or None,
            integrations=[CeleryIntegration()],
            before_send=add_correlation,
            **options,
        )

    def end(**_: Any) -> None:
        sentry_sdk.flush(timeout=2)

    begin()
    signals.worker_process_init.connect(begin, weak=False, dispatch_uid="celery-patterns-sentry-begin")
    signals.worker_process_shutdown.connect(end, weak=False, dispatch_uid="celery-patterns-sentry-end")


def add_correlation(event: Any, hint: Any = None) -> Any:
    """Tag an event with the ids that logs and traces have."""
    del hint
    task = current_task._get_current_object() if current_task else None  # noqa: SLF001 - a proxy
    if task is not None and task.request.id:
        fields = correlation(task.request, task.name)
        event.setdefault("tags", {}).update({name: str(value) for name, value in fields.items()})
    return event
