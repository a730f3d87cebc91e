"""What the resilience of a worker is told, from the application's configuration or the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery_patterns import protocol
from celery_patterns.tasks import options
from celery_patterns.tasks.features import DEAD_LETTERS, MOST_DELIVERIES, PREFIX, Features
from celery_patterns.tasks.patterns import patterns_of

ENV_FAILURES = "CELERY_PATTERNS_DEAD_LETTERS"
ENV_PLACE = "CELERY_PATTERNS_DEAD_LETTERS_ON"
ENV_DELIVERIES = protocol.ENV_MAX_DELIVERIES
ENV_BYTES = "CELERY_PATTERNS_MAX_MESSAGE_BYTES"
ENV_RETENTION = "CELERY_PATTERNS_DEAD_LETTER_RETENTION"
ENV_LONGEST = "CELERY_PATTERNS_DEAD_LETTER_LIMIT"

MAX_DELIVERIES = 5
"""A message whose worker has died so often has most likely killed it."""

MAX_MESSAGE_BYTES = 16 * 2**20
"""Larger bodies are not even decoded: in the main process that takes several times as much memory."""


@dataclass(frozen=True, slots=True)
class ResilienceSettings:
    """The settings, with their defaults."""

    failures: str = "declared"
    """Whose failures become dead letters: ``declared`` (tasks with the policy), ``all``, or ``none``. Messages that
    are no tasks are kept in any case, but for ``none``."""
    place: str = "auto"
    """``store`` (Redis streams), ``broker`` (queues beside the queues) or ``auto``: the store if there is one."""
    max_deliveries: int = MAX_DELIVERIES
    """0 turns the poison guard off."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    retention_seconds: float = 30 * 86_400.0
    longest: int = 10_000

    @classmethod
    def of_app(cls, app: Any) -> ResilienceSettings:
        """Read an application's settings: the environment, else the ``features`` it was given, else its configuration.

        Raises:
            ValueError: If a value is not of its form; the message names it.
        """
        return cls.of(app.conf, features=patterns_of(app).features)

    @classmethod
    def of(
        cls,
        conf: Mapping[str, Any],
        environment: Mapping[str, str] = os.environ,
        *,
        features: Features | None = None,
    ) -> ResilienceSettings:
        """Read ``patterns_dead_letters``, ``patterns_max_deliveries`` and so on; the environment wins.

        Raises:
            ValueError: If a value is not of its form; the message names it.
        """

        def read(variable: str, default: Any) -> Any:
            name = variable.removeprefix("CELERY_").lower()
            value = environment.get(variable) or getattr(features, name.removeprefix(PREFIX), None)
            value = conf.get(name) if value is None else value
            return default if value is None else value

        deliveries = _int(read(ENV_DELIVERIES, MAX_DELIVERIES))
        return cls(
            failures=options.choice(ENV_FAILURES, read(ENV_FAILURES, "declared"), DEAD_LETTERS),
            place=options.choice(ENV_PLACE, read(ENV_PLACE, "auto"), ("auto", "store", "broker")),
            max_deliveries=options.whole(ENV_DELIVERIES, deliveries, high=MOST_DELIVERIES),
            max_message_bytes=options.size(ENV_BYTES, read(ENV_BYTES, MAX_MESSAGE_BYTES)),
            retention_seconds=options.duration(ENV_RETENTION, read(ENV_RETENTION, "30d"), low=1),
            longest=options.whole(ENV_LONGEST, _int(read(ENV_LONGEST, 10_000)), low=1),
        )


def _int(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value
