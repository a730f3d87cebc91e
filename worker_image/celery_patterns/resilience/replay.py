"""Sending a dead letter again: the same id, to the queue it came from, as if it had never been tried."""

from __future__ import annotations

from typing import Any, Final

from amqp.exceptions import FrameError

from celery_patterns import protocol
from celery_patterns.resilience.letters import Letter, OriginalMessage
from celery_patterns.tasks.headers import HEADER, TOKEN

DROPPED_HEADERS: Final = (
    "redelivered",
    "expires",
    "eta",
    HEADER,
    TOKEN,
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-delivery-count",
)
"""What a former life left in the headers: its tries, its due date, and the broker's notes."""


class ReplayRefused(ValueError):  # noqa: N818 - it says what happened
    """A letter is not sent again, and the message says why."""


def fresh_headers(message: OriginalMessage) -> dict[str, Any]:
    """Return the headers of a first try."""
    headers = {name: value for name, value in message.headers.items() if name not in DROPPED_HEADERS}
    if "task" in headers:
        headers["retries"] = 0
    return headers


def send(producer: Any, letter: Letter, queue: str | None = None) -> str:
    """Publish a letter's message to its queue, or another; returns the queue.

    Args:
        producer: A kombu producer; with ``confirm_publish`` on RabbitMQ this returns when the broker has it.
        letter: The letter; ``patch`` its message before.
        queue: Another queue.

    Raises:
        ReplayRefused: If the message belongs to a workflow, which counts its own attempts; or its headers are
            larger than RabbitMQ takes.
        kombu.exceptions.OperationalError: If the broker does not take it.
    """
    message = letter.message
    if message.headers.get(protocol.TASK_HEADER) is not None:
        raise ReplayRefused(
            f"{letter.id}: the task {message.task_id} is a step of a workflow, which would take it for a duplicate: "
            "run the workflow again instead"
        )
    target = queue or letter.queue
    properties = message.properties
    options = {name: properties[name] for name in ("correlation_id", "reply_to", "priority") if properties.get(name)}
    try:
        producer.publish(
            message.body,
            exchange="",
            routing_key=target,
            content_type=message.content_type or "application/octet-stream",
            content_encoding=message.content_encoding or "binary",
            headers=fresh_headers(message),
            delivery_mode=2,
            retry=True,
            retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0},
            **options,
        )
    except FrameError as error:
        raise ReplayRefused(
            f"{letter.id}: the headers of {message.task_id} are larger than AMQP allows (one frame): send the task anew"
        ) from error
    return target
