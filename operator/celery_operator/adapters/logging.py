"""Logs as JSON lines (or coloured for a terminal), from structlog and every library that logs, without credentials."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from celery_patterns.protocol import mask_url

MASKED_DEPTH = 6
"""Log records are shallow; deeper values are shown as text."""

QUIET = {
    "kopf.objects": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "kubernetes": logging.WARNING,
    "asyncio": logging.WARNING,
}
"""Libraries that say too much when all is well."""


def configure_logging(
    level: str = "info", output: Literal["auto", "json", "console"] = "auto", *, stream: TextIO | None = None
) -> None:
    """Set up structlog and the standard library's logging for the whole process. Calling it again replaces all.

    Args:
        level: Of our own logs and of libraries', in either case.
        output: auto: console on a terminal, else json.
        stream: Where to; default standard error.
    """
    target = stream or sys.stderr
    console = output == "console" or (output == "auto" and target.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        mask_credentials,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(default=_as_text)
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:4], structlog.stdlib.ExtraAdder(), *shared[4:]],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, mask_credentials, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(max(quiet, root.level))


def mask_credentials(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace user and password in every URL of a log record, however deep it lies. A structlog processor."""
    return {name: value if name.startswith("_") else _masked(value, MASKED_DEPTH) for name, value in event.items()}


def _masked(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return mask_url(value)
    if value is None or isinstance(value, int | float):
        return value
    if depth and isinstance(value, Mapping):
        return {name: _masked(inner, depth - 1) for name, inner in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_masked(inner, depth - 1) for inner in value]
    return mask_url(str(value))


def _as_text(value: Any) -> str:
    return mask_url(str(value))
