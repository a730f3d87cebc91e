"""A Redis broker without memory: the worker goes on with what it holds, and takes no more until there is some.

kombu takes a message from its list first and notes then that this worker holds it. Without memory Redis allows the
first and refuses the second (and refuses acknowledgements too, which kombu sends as a transaction). Stock Celery ends
over that, and what was taken is gone. Here it is noted by a script that Redis allows; where there is no such thing
(before Redis 7, or for a user who may run no scripts) it is run all the same and noted as soon as that is possible.
Acknowledgements are sent in the form that Redis always allows.

A worker that connects to such a broker would end, too, over the first thing that kombu writes: here it waits.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from kombu.transport import redis, virtual
from kombu.utils.json import dumps
from redis.exceptions import OutOfMemoryError, ResponseError
from typing_extensions import override

from celery_patterns.resilience.forced_writes import HOLD, PUSH, force

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
"""How often it is tried whether there is memory again."""

TELL_SECONDS: Final = 60.0
"""How often a worker says again that it waits."""

PROBE: Final = "celery-patterns-probe"
"""A member that nobody has: to change it needs memory as any write does, and changes nothing."""

FULL: Final = "the broker's Redis has no memory"

_QoS: Any = redis.QoS
_InMemory: Any = virtual.QoS
_installed: list[Any] = []


def install() -> None:
    """Make kombu's Redis transport survive a broker without memory, in this process; twice is once."""
    if _installed:
        return
    channel: Any = redis.Channel
    start = channel._brpop_start  # noqa: SLF001

    def careful_start(self: Any, *args: Any, **kwargs: Any) -> Any:
        return start(self, *args, **kwargs) if self.qos.may_take() else None

    channel.QoS = CarefulQoS
    channel._brpop_start = careful_start  # noqa: SLF001
    # Not before: Sentry's integration changes what this module takes from celery.app.trace when it is imported.
    from celery.worker.consumer import Consumer  # noqa: PLC0415

    _make_careful(Consumer)
    _installed.append(start)


def _make_careful(consumer: Any) -> None:
    """Let a worker wait for memory when it connects, and connect again if that vanishes before it consumes."""
    connect, begin = consumer.connect, consumer.start

    def careful_connect(self: Any) -> Any:
        connection = connect(self)
        if isinstance(connection.transport, redis.Transport):
            _wait_for_memory(connection)
        return connection

    def careful_begin(self: Any) -> Any:
        # What Celery does not know for an error of the connection ends the worker, whatever it runs.
        self.connection_errors = (*self.connection_errors, OutOfMemoryError)
        return begin(self)

    consumer.connect, consumer.start = careful_connect, careful_begin


def _wait_for_memory(connection: Any) -> None:
    """Return when the broker's Redis takes a write. Raises WorkerShutdown if the worker is told to end meanwhile."""
    from celery.worker.state import maybe_shutdown  # noqa: PLC0415 - see install

    told_at = None
    with connection.channel() as channel:
        while True:
            try:
                channel.qos.probe()
            except OutOfMemoryError as error:
                now = time.monotonic()
                if told_at is None or now - told_at >= TELL_SECONDS:
                    told_at = now
                    logger.error(  # noqa: TRY400
                        "%s: this worker cannot begin to take messages, and waits; raise maxmemory, or remove what "
                        "fills it: %s",
                        FULL,
                        error,
                    )
            except ResponseError:  # no right to write, say: whatever needs it says so
                return
            else:
                if told_at is not None:
                    logger.warning("the broker's Redis has memory again: messages are taken")
                return
            maybe_shutdown()
            time.sleep(LOOK_SECONDS)


class CarefulQoS(_QoS):  # type: ignore[misc]
    """kombu's record of what a consumer holds, for a Redis that may have no memory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.without_memory = False
        """Redis had none when the last message was taken: no more are, until it has."""
        self.unnoted: dict[str, Any] = {}
        """Delivery tag -> message, of what Redis could not note; some may have ended."""
        self.looked_at = 0.0

    @override
    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().restore_visible(*args, **kwargs)
        except OutOfMemoryError as error:  # what dead workers held stays where it is until the next look
            logger.debug("%s: what dead workers held is not looked for: %s", FULL, error)

    @override
    def append(self, message: Any, delivery_tag: str) -> None:
        try:
            super().append(message, delivery_tag)
        except OutOfMemoryError as error:
            self.without_memory, self.looked_at = True, time.monotonic()
            what = "this worker takes no more messages"
            if not self._hold(message, delivery_tag):
                self.unnoted[delivery_tag] = message
                what = f"{_name(message)} cannot be noted (key {self.unacked_key}), and {what}"
            logger.error("%s: %s until there is some; raise maxmemory, or remove what fills it: %s", FULL, what, error)  # noqa: TRY400
            _InMemory.append(self, message, delivery_tag)

    @override
    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except OutOfMemoryError:
            self.forget(delivery_tag)

    @override
    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue)
        except OutOfMemoryError:
            self.forget(delivery_tag)

    def forget(self, delivery_tag: str) -> None:
        """Remove the note of a message, one command after the other: these Redis allows."""
        with self.channel.conn_or_acquire() as client:
            client.zrem(self.unacked_index_key, delivery_tag)
            client.hdel(self.unacked_key, delivery_tag)
        _InMemory.ack(self, delivery_tag)

    @override
    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        message = self.unnoted.get(tag)
        try:
            if message is None:
                super().restore_by_tag(tag, client, leftmost)
            else:
                self._push(message, client, leftmost=leftmost)
        except OutOfMemoryError as error:
            if message is not None:
                logger.critical("%s: %s is lost: %r", FULL, _name(message), message._raw)  # noqa: SLF001
                return
            logger.error(  # noqa: TRY400
                "%s: a message cannot go back to its queue now, it stays in %s until its visibility timeout or "
                "lease is over: %s",
                FULL,
                self.unacked_key,
                error,
            )

    def _push(self, message: Any, client: Any, *, leftmost: bool) -> None:
        pushed: list[tuple[str, str]] = []
        note = _Pushed(pushed)
        info = message.delivery_info
        # It swallows what goes wrong: it writes into a list here, and that is sent below.
        self.channel._do_restore_message(message._raw, info["exchange"], info["routing_key"], note, leftmost)  # noqa: SLF001
        with self.channel.conn_or_acquire(client) as connection:
            for name, text in pushed:
                try:
                    (connection.lpush if leftmost else connection.rpush)(name, text)
                except OutOfMemoryError:
                    command = "LPUSH" if leftmost else "RPUSH"
                    if not force(connection, PUSH, [self._key(name)], [command, text]):
                        raise

    def _hold(self, message: Any, tag: str) -> bool:
        """Note a message as ``append`` does, though there is no memory; False if that is impossible here."""
        info = message.delivery_info
        note = dumps([message._raw, info["exchange"], info["routing_key"]])  # type: ignore[no-untyped-call]  # noqa: SLF001
        with self.channel.conn_or_acquire() as client:
            keys = [self._key(self.unacked_key), self._key(self.unacked_index_key)]
            return force(client, HOLD, keys, [tag, time.time(), note])

    def _key(self, name: str) -> str:
        """Return a key as the server knows it: kombu's client puts the prefix before those of some commands only."""
        return f"{self.channel.global_keyprefix}{name}"

    def may_take(self) -> bool:
        """Whether another message may be taken: always, unless there was no memory for the last and still is none."""
        if not self.without_memory:
            return True
        if time.monotonic() - self.looked_at < LOOK_SECONDS:
            return False
        self.looked_at = time.monotonic()
        try:
            self._note()
        except OutOfMemoryError:
            return False
        self.unnoted.clear()
        self.without_memory = False
        logger.warning("the broker's Redis has memory again: messages are taken again")
        return True

    def probe(self) -> None:
        """Ask for what noting a message needs, and write nothing. Raises OutOfMemoryError."""
        with self.channel.conn_or_acquire() as client:
            client.zadd(self.unacked_index_key, {PROBE: 0}, xx=True)

    def _note(self) -> None:
        self.probe()  # also when all have ended by now: the next message needs as much
        for tag, message in self.unnoted.items():
            if tag in self._delivered and tag not in self._dirty:
                super().append(message, tag)


class _Pushed:
    """Stands for a Redis client where kombu says into which lists a message goes."""

    def __init__(self, pushed: list[tuple[str, str]]) -> None:
        self._pushed = pushed

    def rpush(self, name: str, text: str) -> None:
        self._pushed.append((name, text))

    lpush = rpush


def _name(message: Any) -> str:
    headers = message.headers or {}
    return f"{headers.get('task', 'a message')}[{headers.get('id', '')}]"
