"""A RabbitMQ broker (AMQP 0-9-1) through kombu's py-amqp transport, in two threads: one asks, one publishes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from amqp.exceptions import AMQPError, NotFound, PreconditionFailed, RecoverableConnectionError
from kombu import entity
from typing_extensions import override

from celery_operator.adapters import celery_app
from celery_operator.adapters.asking import ANSWER_SECONDS
from celery_operator.adapters.blocking import BlockingCalls
from celery_operator.adapters.messages import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    DEFAULT_PRIORITY,
    CeleryMessage,
    MessageBuilder,
)
from celery_operator.domain.messages import TaskMessage
from celery_operator.services.ports import Clock

# kombu says that it is typed and is not.
_Exchange: Any = entity.Exchange
_Queue: Any = entity.Queue

CONFIRM_EVERY = 500
"""Messages between two waits for the broker's confirmations; bounds what is in flight unconfirmed."""


class AmqpSession:
    """One AMQP connection with one channel, opened when needed. Belongs to one thread; every method blocks."""

    def __init__(self, url: str) -> None:
        self._kombu = celery_app.connect(url)
        self._connection: Any = None
        self._channel: Any = None

    def channel(self) -> Any:
        """Return an open channel, a new one if the last was closed by an error."""
        if self._connection is None or not self._connection.connected:
            self.close()
            # The transport's own method tries once; kombu's way to connect would retry, with pauses of its own.
            self._connection = self._kombu.transport.establish_connection()
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
            self.opened(self._channel)
        return self._channel

    def opened(self, channel: Any) -> None:
        """Prepare a new channel."""

    def drain(self) -> None:
        """Read one event from the broker; raises socket.timeout after the socket's limit."""
        self._connection.drain_events(timeout=ANSWER_SECONDS)

    def waiting_in(self, queue: str) -> int | None:
        """Return the messages ready in a queue; None if there is no such queue."""
        channel = self.channel()
        try:
            answer = channel.queue_declare(queue=queue, passive=True)
        except NotFound:
            self._channel = None  # the broker closes a channel with every error
            return None
        return int(answer.message_count)

    def close(self) -> None:
        """Close the connection, without waiting for a broker that is gone."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is None:
            return
        try:
            connection.close()
        except (AMQPError, OSError):
            connection.collect()


class ReadingSession(AmqpSession):
    """Asks how much waits."""

    def waiting(self, queues: Sequence[str]) -> dict[str, int]:
        """Return the messages ready in each queue; 0 where there is none. Without queues it only connects."""
        try:
            self.channel()
            return {queue: self.waiting_in(queue) or 0 for queue in queues}
        except (AMQPError, OSError):
            self.close()
            raise


class PublishingSession(AmqpSession):
    """Publishes with confirmations: several hundred messages are in flight, none is forgotten."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._last_tag = 0
        self._unconfirmed: set[int] = set()
        self._refused: list[str] = []
        self._declared: set[str] = set()

    @override
    def opened(self, channel: Any) -> None:
        """Turn on confirmations; the broker numbers the messages of a channel from 1."""
        self._forget()
        channel.events["basic_ack"].add(self._acknowledged)
        channel.events["basic_nack"].add(self._rejected)
        channel.events["basic_return"].add(self._returned)
        channel.confirm_select()

    @override
    def close(self) -> None:
        super().close()
        self._declared.clear()
        self._forget()

    def _forget(self) -> None:
        self._last_tag = 0
        self._unconfirmed.clear()
        self._refused.clear()

    def publish(self, messages: Iterable[CeleryMessage]) -> None:
        """Publish in order; returns when the broker has confirmed all. Raises AMQP's errors and OSError."""
        try:
            for number, message in enumerate(messages, start=1):
                self._declare(message.queue)
                self._send(message)
                if number % CONFIRM_EVERY == 0:
                    self._wait()
            self._wait()
        except (AMQPError, OSError):
            self.close()
            raise

    def _send(self, message: CeleryMessage) -> None:
        channel = self.channel()
        prepared = channel.prepare_message(
            message.body,
            DEFAULT_PRIORITY,
            CONTENT_TYPE,
            CONTENT_ENCODING,
            message.headers,
            message.properties,
        )
        # Mandatory: if the queue has been deleted meanwhile, the broker says so instead of dropping the message.
        channel.basic_publish(prepared, exchange="", routing_key=message.queue, mandatory=True)
        self._last_tag += 1
        self._unconfirmed.add(self._last_tag)

    def _wait(self) -> None:
        while self._unconfirmed:
            self.drain()
        if self._refused:
            text = "; ".join(sorted(set(self._refused)))
            raise RecoverableConnectionError(f"messages were not taken: {text}")

    def _declare(self, queue: str) -> None:
        """Declare a queue as a worker would, unless it exists: its owner may have given it other arguments."""
        if queue in self._declared:
            return
        self._wait()  # a queue that is not there costs the channel, and with it the numbers of what is unconfirmed
        if self.waiting_in(queue) is None:
            try:
                _Queue(queue, exchange=_Exchange(queue), routing_key=queue)(self.channel()).declare()
            except PreconditionFailed:  # somebody else was faster, with other arguments: theirs stand
                self._channel = None
        self.channel()
        self._declared.add(queue)

    def _acknowledged(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - called by py-amqp
        if multiple:
            self._unconfirmed = {other for other in self._unconfirmed if other > tag}
        else:
            self._unconfirmed.discard(tag)

    def _rejected(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - called by py-amqp
        self._refused.append("the broker refused them (nack)")
        self._acknowledged(tag, multiple)

    def _returned(self, error: Exception, _exchange: str, routing_key: str, _message: Any) -> None:
        self._refused.append(f"queue {routing_key} is gone ({error})")


class RabbitmqBroker:
    """The port ``Broker`` on RabbitMQ (``amqp://``, ``amqps://``, ``pyamqp://``).

    Args:
        url: As Celery reads it.
        clock: For the header that tells when a message was published.
    """

    def __init__(self, url: str, *, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._app = celery_app.private_app(url)
        self._builder = MessageBuilder(self._app)
        self._reading = ReadingSession(url)
        self._publishing = PublishingSession(url)
        self._read_calls = BlockingCalls(url, "read")
        self._publish_calls = BlockingCalls(url, "publish")

    async def waiting(self, queues: Sequence[str]) -> Mapping[str, int]:
        """See the port. Without queues it only asks whether the broker answers."""
        return await self._read_calls.run("count what waits", functools.partial(self._reading.waiting, tuple(queues)))

    async def publish(self, messages: Sequence[TaskMessage]) -> None:
        """See the port."""
        if messages:
            # Each step is bounded by the sockets' timeouts; how many steps there are is the caller's matter.
            call = functools.partial(self._build_and_publish, tuple(messages), self._clock.now().timestamp())
            await self._publish_calls.run("publish", call, seconds=None)

    def _build_and_publish(self, messages: Sequence[TaskMessage], published_at: float) -> None:
        self._publishing.publish(self._builder.build(message, published_at) for message in messages)

    async def revoke(self, task_ids: Sequence[str]) -> None:
        """See the port."""
        if task_ids:
            call = functools.partial(celery_app.revoke, self._app, self._url, task_ids)
            await self._read_calls.run("revoke tasks", call)

    async def close(self) -> None:
        """See the port."""
        await self._publish_calls.close(self._publishing.close)
        await self._read_calls.close(self._reading.close)
