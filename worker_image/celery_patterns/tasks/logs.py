"""Structured logs whose lines say which task of which workflow wrote them.

    logs.enable(app)            # in the module of the application

Every line that anything writes below a task carries ``task``, ``task_id``, ``root_id``, ``parent_id`` and ``attempt``;
for a task of a CeleryWorkflow also ``workflow`` (its uid), ``run``, ``step`` and ``index``. ``correlation_id`` is the
workflow's uid, or the id of the first task of a canvas: one search finds everything that one request set off.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Literal, TextIO

from celery import signals

from celery_patterns import protocol
from celery_patterns.tasks.headers import HEADER, Tries

Style = Literal["json", "console"]

_NAMES = ("correlation_id", "task", "task_id", "root_id", "parent_id", "attempt", "workflow", "run", "step", "index")


def correlation(request: Any, name: str) -> dict[str, Any]:
    """Return what every line of a task says about where it belongs; ``request`` is Celery's."""
    identity = protocol.TaskIdentity.from_header(request.get(protocol.TASK_HEADER))
    tries = Tries.of({HEADER: request.get(HEADER)}, request.retries or 0)
    fields: dict[str, Any] = {
        "correlation_id": request.root_id or request.id,
        "task": name,
        "task_id": request.id,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "attempt": tries.attempt,
    }
    if identity is not None:
        fields |= {
            "correlation_id": identity.uid,
            "workflow": identity.uid,
            "run": identity.run,
            "step": identity.step,
            "index": identity.index,
            "attempt": identity.attempt,
        }
    return {key: value for key, value in fields.items() if value is not None}


def bind_task(task: Any = None, **_: Any) -> None:
    """Begin to mark lines as this task's."""
    from structlog import contextvars  # noqa: PLC0415 - optional, and connected only where it is there

    contextvars.bind_contextvars(**correlation(task.request, task.name))


def unbind_task(**_: Any) -> None:
    """Stop marking lines."""
    from structlog import contextvars  # noqa: PLC0415 - see above

    contextvars.unbind_contextvars(*_NAMES)


def handler(style: Style = "json", stream: TextIO | None = None) -> logging.Handler:
    """Return a handler that writes every record, structlog's or the standard library's, in one form.

    Raises:
        ModuleNotFoundError: If structlog is not installed.
    """
    import structlog  # noqa: PLC0415 - see above

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    if style == "json":
        last: list[Any] = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    else:
        last = [structlog.dev.ConsoleRenderer(colors=False)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    made = logging.StreamHandler(stream or sys.stdout)
    made.setFormatter(formatter)
    return made


def enable(app: Any, *, style: Style = "json", level: str | None = None, at_once: bool = False) -> None:
    """Let an application's workers write structured logs.

    ``Features(logs="json")`` calls it when a worker begins; call it yourself, where the application is made, for what
    a setting cannot say.

    Args:
        app: The Celery application.
        style: ``json``, one object a line; or ``console``, for people.
        level: Of the root logger; None: what ``celery worker -l`` says.
        at_once: Begin here as well: this process has set up its logs already.

    Raises:
        ValueError: If the style is another.
        ModuleNotFoundError: If structlog is not installed (it comes with ``celery-operator[worker]``).
    """
    if style not in ("json", "console"):
        raise ValueError(f"style: expected 'json' or 'console', got {style!r}")
    import structlog  # noqa: F401, PLC0415 - say at once that it is missing, not in the first task

    def set_up(loglevel: Any = None, **_: Any) -> None:
        root = logging.getLogger()
        root.handlers[:] = [handler(style)]
        root.setLevel(level or loglevel or logging.INFO)

    app.conf.worker_redirect_stdouts = False
    signals.setup_logging.connect(set_up, weak=False, dispatch_uid="celery-patterns-logs")
    signals.task_prerun.connect(bind_task, weak=False, dispatch_uid="celery-patterns-logs-begin")
    signals.task_postrun.connect(unbind_task, weak=False, dispatch_uid="celery-patterns-logs-end")
    if at_once:
        # Celery leaves the level here for the processes that its worker starts.
        set_up(int(os.environ.get("CELERY_LOG_LEVEL") or 0))
