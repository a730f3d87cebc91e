"""Celery's messages, built as ``send_task`` builds them, from values.

What does not differ between messages is asked of the installed Celery once (``as_task_v2``); the rest is filled in
here, since Celery's own path costs ten times as much and this is the fan-out's hot path. That both are equal is held by
the contract tests, against Celery itself and against workers.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from celery import Celery
from celery.utils.saferepr import saferepr

from celery_operator.domain.messages import TaskMessage
from celery_patterns.protocol import PUBLISHED_AT_HEADER, TASK_HEADER, TRIES_HEADER

CONTENT_TYPE = "application/json"
CONTENT_ENCODING = "utf-8"
PERSISTENT = 2
"""AMQP's delivery mode of a message that survives a restart of the broker: Celery's default."""

DEFAULT_PRIORITY = 0
"""What kombu notes in a message that names none."""

_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
"""The third part of a body: nothing follows, joins happen in the operator."""

encode_json = json.JSONEncoder().encode
"""As ``json.dumps``, without making an encoder each time. Arguments are JSON values: kombu's adds nothing."""


class CeleryMessage(NamedTuple):
    """A message as kombu's transports take it."""

    queue: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    body: str


class MessageBuilder:
    """Builds messages for one application object (it only gives Celery's defaults; it connects to nothing)."""

    def __init__(self, app: Celery) -> None:
        template = app.amqp.as_task_v2("", "", ignore_result=False)
        self._headers: dict[str, Any] = template.headers
        self._properties: dict[str, Any] = template.properties
        self._repr_levels: int = app.conf.task_repr_maxlevels
        self._args_length: int = app.amqp.argsrepr_maxsize
        self._kwargs_length: int = app.amqp.kwargsrepr_maxsize

    def build(self, message: TaskMessage, published_at: float) -> CeleryMessage:
        """Return the Celery message of one attempt.

        Args:
            message: What to publish.
            published_at: Seconds since the epoch, for the header of that name.

        Raises TypeError or ValueError if an argument is no JSON value.
        """
        identity = message.identity
        task_id = identity.task_id
        headers = {
            **self._headers,
            "task": message.task,
            "id": task_id,
            "root_id": task_id,
            "retries": message.retries,
            "timelimit": [message.time_limit, message.soft_time_limit],
            "argsrepr": self._repr(message.args, self._args_length),
            "kwargsrepr": self._repr(message.kwargs, self._kwargs_length) if message.kwargs else "{}",
            TASK_HEADER: identity.to_header(),
            PUBLISHED_AT_HEADER: published_at,
        }
        if message.tries is not None:
            headers[TRIES_HEADER] = dict(message.tries)
        properties = {**self._properties, "correlation_id": task_id, "delivery_mode": PERSISTENT}
        body = encode_json((message.args, message.kwargs, _EMBED))
        return CeleryMessage(message.queue, headers, properties, body)

    def _repr(self, value: Any, length: int) -> str:
        text: str = saferepr(value, length, maxlevels=self._repr_levels)
        return text
