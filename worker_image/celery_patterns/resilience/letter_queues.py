"""Dead letters in RabbitMQ: beside each queue one for its letters, where its dead-letter exchange may write, too.

A letter is the original message with one more header, which says why it is there; where that is too large for AMQP,
``letter_headers`` sees to it. AMQP cannot look into a queue: letters are taken, read and given back, in their order, by
closing the channel.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from amqp.exceptions import MessageNacked, PreconditionFailed
from kombu.entity import Queue

from celery_patterns import protocol
from celery_patterns.resilience import letter_headers, letters
from celery_patterns.resilience.letters import Letter, OriginalMessage
from celery_patterns.store import StoreUnavailable

SUFFIX: Final = ".dead"
"""Name of a queue's letters: the queue's own and this."""

HEADER: Final = "celery_patterns_letter"

LONGEST: Final = 10_000
RETENTION_SECONDS: Final = 30 * 86_400.0

SOCKET_SECONDS: Final = 10.0


class LetterQueues:
    """The dead letters of one application, on its broker.

    Args:
        app: The Celery application; its broker is RabbitMQ.
        longest: How many letters a queue keeps; the oldest go first.
        retention_seconds: How long a letter is kept.

    Every method may raise ``StoreUnavailable``. A letter's id is its message's own mark, not a position.
    """

    def __init__(self, app: Any, *, longest: int = LONGEST, retention_seconds: float = RETENTION_SECONDS) -> None:
        self._app = app
        self._arguments = {"x-message-ttl": int(retention_seconds * 1000), "x-max-length": longest}
        self._longest = longest
        self._connection: Any = None

    def keep(self, letter: Letter, token: str) -> str:
        """Keep a letter and return its id. The broker confirms it; an answer that is lost may leave two."""
        letter_id = f"{int(time.time() * 1000)}-{token[:8]}"
        note = {
            "id": letter_id,
            "queue": letter.queue,
            "reason": letter.reason,
            "error": letter.error[: letters.ERROR_CHARACTERS],
            "traceback": letter.traceback[-letters.TRACEBACK_CHARACTERS :],
            "traceback_hash": letter.traceback_hash,
            "attempts": letter.attempts,
            "worker": letter.worker,
            "original": letter.original,
        }
        message = letter.message
        headers = {**message.headers, HEADER: json.dumps(note)}
        # Written apart from any channel: what cannot be written is not the broker's fault, and no try changes it.
        table = letter_headers.write_table(headers)
        properties = {
            name: message.properties[name]
            for name in ("correlation_id", "reply_to", "priority")
            if message.properties.get(name)
        }
        with self._channel() as channel:
            self._declare(channel, letter.queue)
            body, headers = letter_headers.fit(message.body, headers, table, channel.connection.frame_max)
            channel.basic_publish_confirm(
                channel.prepare_message(
                    body,
                    content_type=message.content_type or "application/octet-stream",
                    content_encoding=message.content_encoding or "binary",
                    headers=headers,
                    properties={**properties, "delivery_mode": 2},
                ),
                exchange="",
                routing_key=letter.queue + SUFFIX,
            )
        return letter_id

    def queues(self) -> dict[str, dict[str, int]]:
        """Return for each queue of the application that has letters how many are ``waiting``."""
        found = {}
        for name in self._app.amqp.queues:
            with self._channel() as channel:
                try:
                    waiting = channel.queue_declare(name + SUFFIX, passive=True).message_count
                except channel.connection.client.channel_errors:
                    continue
                found[str(name)] = {"waiting": int(waiting)}
        return found

    def scan(self, queue: str, *, newest_first: bool = True) -> Iterator[Letter]:
        """Go through a queue's letters; they are all taken and given back."""
        found: list[Letter] = []
        self._through(queue, lambda letter, _: found.append(letter))
        yield from reversed(found) if newest_first else found

    def get(self, queue: str, letter_id: str) -> Letter | None:
        """Return one letter; None if there is none of this id."""
        return next((letter for letter in self.scan(queue) if letter.id == letter_id), None)

    def remove(self, queue: str, letter_ids: list[str]) -> int:
        """Remove letters; returns how many there were."""
        wanted, gone = set(letter_ids), []

        def drop(letter: Letter, message: Any) -> None:
            if letter.id in wanted:
                message.ack()
                gone.append(letter.id)

        self._through(queue, drop)
        return len(gone)

    def purge(self, queue: str, older_seconds: float | None = None) -> int:
        """Remove the letters of a queue, or those older than so long; returns how many."""
        if older_seconds is None:
            with self._channel() as channel:
                try:
                    return int(channel.queue_purge(queue + SUFFIX) or 0)
                except channel.connection.client.channel_errors:
                    return 0
        edge = (time.time() - older_seconds) * 1000
        return self.remove(queue, [letter.id for letter in self.scan(queue) if letter.at_ms < edge])

    # ---- inside

    def _through(self, queue: str, visit: Callable[[Letter, Any], Any]) -> None:
        with self._channel() as channel:
            try:
                count = channel.queue_declare(queue + SUFFIX, passive=True).message_count
            except channel.connection.client.channel_errors:
                return
            for _ in range(count):
                raw = channel.basic_get(queue + SUFFIX, no_ack=False)
                if raw is None:
                    return
                message = channel.message_to_python(raw)
                visit(read_letter(queue, message), message)

    def _declare(self, channel: Any, queue: str) -> None:
        """Declare a queue's letters, unless somebody has, maybe with other arguments."""
        with self._channel() as probe:
            try:
                probe.queue_declare(queue + SUFFIX, passive=True)
            except probe.connection.client.channel_errors:
                letters_queue = Queue(queue + SUFFIX, durable=True, queue_arguments=self._arguments, channel=channel)  # type: ignore[no-untyped-call]
                try:
                    letters_queue.queue_declare()  # type: ignore[no-untyped-call]
                except PreconditionFailed as error:  # somebody has declared it in between: the next try finds it
                    raise _unavailable(error) from error

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """Give a channel of this object's own connection; unacknowledged letters go back at its end."""
        connection = self._connect()
        try:
            channel = connection.channel()
            channel.auto_decode = False  # bodies as they are: bytes, in whatever encoding
            try:
                yield channel
            finally:
                if channel.is_open:
                    channel.close()
        except connection.connection_errors as error:
            self._connection = None
            connection.release()
            raise _unavailable(error) from error
        except PreconditionFailed:
            raise  # what is wrong with a letter, its size above all, is wrong with it the next time too
        except (*connection.channel_errors, MessageNacked) as error:
            raise _unavailable(error) from error

    def _connect(self) -> Any:
        if self._connection is None:
            connection = self._app.connection_for_write(connect_timeout=SOCKET_SECONDS)
            try:
                connection.ensure_connection(max_retries=1, timeout=SOCKET_SECONDS)
            except (OSError, *connection.connection_errors) as error:
                raise _unavailable(error) from error
            self._connection = connection
        return self._connection

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


def _unavailable(error: BaseException) -> StoreUnavailable:
    why = protocol.mask_url(str(error)) or type(error).__name__
    return StoreUnavailable(f"the dead letters' broker: {why}")


def read_letter(queue: str, message: Any) -> Letter:
    """Read a letter of ours, or a message that RabbitMQ's dead-letter exchange brought."""
    original = OriginalMessage.of(message)
    if HEADER not in original.headers:
        original = letter_headers.restore(original)
    headers = dict(original.headers)
    try:
        note = json.loads(headers.pop(HEADER))
    except (KeyError, TypeError, ValueError):
        note = _by_broker(original)
    clean = OriginalMessage(
        original.body, headers, original.properties, original.content_type, original.content_encoding
    )
    letter_id = str(note.get("id") or original.task_id)
    begin = letter_id.split("-", 1)[0]
    return Letter(
        id=letter_id,
        queue=str(note.get("queue") or queue),
        reason=str(note.get("reason") or letters.DEAD_LETTERED),
        message=clean,
        error=str(note.get("error") or ""),
        traceback=str(note.get("traceback") or ""),
        traceback_hash=str(note.get("traceback_hash") or ""),
        attempts=int(note.get("attempts") or 0),
        worker=str(note.get("worker") or ""),
        at_ms=int(note.get("at_ms") or (begin if begin.isdigit() else 0)),
        original=note.get("original") is not False,
    )


def _by_broker(message: OriginalMessage) -> dict[str, Any]:
    """Read the broker's own note: x-death, the last death first."""
    deaths = message.headers.get("x-death") or [{}]
    last = deaths[0]
    at, retries = last.get("time"), message.headers.get("retries")
    stamp = int(at.timestamp() * 1000) if hasattr(at, "timestamp") else 0
    return {
        "id": message.task_id,
        "queue": last.get("queue"),
        "error": f"RabbitMQ dead-lettered it: {last.get('reason', 'no reason given')}",
        "attempts": 1 + (retries if isinstance(retries, int) and retries > 0 else 0),
        "at_ms": stamp,
    }
