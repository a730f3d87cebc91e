"""Sending a dead letter again: the same id, to the queue it came from, as if it had never been tried."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final, Self

from amqp.exceptions import FrameError, MessageNacked
from kombu.exceptions import OperationalError

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


class Replays:
    """Sends dead letters again, over a connection of its own to the application's broker: a context manager.

    RabbitMQ confirms each message, whatever the application's own settings are.

    Args:
        app: The Celery application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._stack = ExitStack()
        self._producer: Any = None
        self._unroutable: list[Exception] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            connection = self._app.connection_for_write(transport_options={"confirm_publish": True})
            stack.enter_context(connection)
            # Redis has no queues that could be missing, and kombu's channels for it nobody to tell.
            on_return = self._returned if connection.transport.driver_type == "amqp" else None
            self._producer = stack.enter_context(self._app.amqp.Producer(connection, on_return=on_return))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _returned(self, why: Exception, *_: object) -> None:
        # Noted rather than raised here: the confirmation that follows must be read before the next message is sent.
        self._unroutable.append(why)

    def send(self, letter: Letter, queue: str | None = None) -> str:
        """Publish a letter's message to its queue, or another; returns the queue when the broker has the message.

        Args:
            letter: The letter; ``patch`` its message before.
            queue: Another queue.

        Raises:
            ReplayRefused: If the message belongs to a workflow, which counts its own attempts; its headers are larger
                than RabbitMQ takes; or RabbitMQ has no such queue, or a full one.
            kombu.exceptions.OperationalError: If the broker does not answer.
        """
        message = letter.message
        if message.headers.get(protocol.TASK_HEADER) is not None:
            raise ReplayRefused(
                f"{letter.id}: the task {message.task_id} is a step of a workflow, which would take it for a "
                "duplicate: run the workflow again instead"
            )
        target = queue or letter.queue
        self._unroutable.clear()
        try:
            self._publish(message, target)
        except FrameError as error:
            raise ReplayRefused(
                f"{letter.id}: the headers of {message.task_id} are larger than AMQP allows (one frame): "
                "send the task anew"
            ) from error
        except OperationalError as error:
            if not isinstance(error.__cause__, MessageNacked):
                raise
            raise ReplayRefused(
                f"{letter.id}: RabbitMQ takes no message for the queue {target} now: it has as many as its "
                "x-max-length or x-max-length-bytes allow, or its replicas are away"
            ) from error
        if self._unroutable:
            raise ReplayRefused(
                f"{letter.id}: RabbitMQ has no queue {target} (a worker that consumes it declares it): "
                "start such a worker, or name another queue"
            ) from self._unroutable[0]
        return target

    def _publish(self, message: OriginalMessage, queue: str) -> None:
        properties = message.properties
        options = {
            name: properties[name] for name in ("correlation_id", "reply_to", "priority") if properties.get(name)
        }
        self._producer.publish(
            message.body,
            exchange="",
            routing_key=queue,
            mandatory=True,
            content_type=message.content_type or "application/octet-stream",
            content_encoding=message.content_encoding or "binary",
            headers=fresh_headers(message),
            delivery_mode=2,
            retry=True,
            retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0},
            **options,
        )
