"""Dead letters: messages that nobody will run again, kept as they were, with the reason. Pure values."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Final

from kombu.utils.json import dumps, loads

from celery_patterns import protocol

UNDECODABLE: Final = "undecodable"
"""Its body cannot be read: not of its content type, or of one that is not accepted."""
BAD_SIGNATURE: Final = "bad_signature"
INVALID: Final = "invalid"
"""Readable, but no task message."""
UNKNOWN_TASK: Final = "unknown_task"
OVERSIZED: Final = "oversized"
FAILED: Final = "failed"
"""The task raised, and there is no further try."""
REFUSED: Final = "refused"
"""A policy did not let the task run, and does not let it wait any longer."""
REJECTED: Final = "rejected"
"""The task rejected its message."""
TIMEOUT: Final = "timeout"
WORKER_LOST: Final = "worker_lost"
"""Its process was killed, and there is no further try."""
POISON: Final = "poison"
"""It was delivered too often without ending: it kills whatever runs it."""
DEAD_LETTERED: Final = "dead_lettered"
"""The broker itself set it aside (RabbitMQ's dead-letter exchange)."""

REASONS: Final = (
    UNDECODABLE,
    BAD_SIGNATURE,
    INVALID,
    UNKNOWN_TASK,
    OVERSIZED,
    FAILED,
    REFUSED,
    REJECTED,
    TIMEOUT,
    WORKER_LOST,
    POISON,
    DEAD_LETTERED,
)

ENDS_OF_TASKS: Final = (FAILED, REFUSED, REJECTED, TIMEOUT, WORKER_LOST)
"""How a task can have failed for good; all else befalls messages, whatever their task says of itself."""

ERROR_CHARACTERS: Final = 2_000
TRACEBACK_CHARACTERS: Final = 16_000
"""What is kept of texts: enough to understand, little beside the message."""

_FRAME: Final = re.compile(r'File "([^"]+)", line \d+, in (\S+)')


@dataclass(frozen=True, slots=True)
class OriginalMessage:
    """A message as it came, byte for byte; one that came compressed is kept decompressed."""

    body: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    content_type: str | None = None
    content_encoding: str | None = None

    @classmethod
    def of(cls, message: Any) -> OriginalMessage:
        """Take a kombu message."""
        body = message.body
        if body is None:
            body = b""
        if isinstance(body, str):
            body = _encoded(body, message.content_encoding)
        headers = dict(message.headers or {})
        if not getattr(message, "errors", None):
            headers.pop("compression", None)  # kombu has decompressed the body
        return cls(
            body=bytes(body),
            headers=headers,
            properties={name: value for name, value in (message.properties or {}).items() if name != "delivery_tag"},
            content_type=message.content_type,
            content_encoding=message.content_encoding,
        )

    @property
    def task_id(self) -> str:
        """The task's id; empty if the message has none."""
        return str(self.headers.get("id") or self.properties.get("correlation_id") or "")

    @property
    def task(self) -> str:
        """The task's name; empty if the message has none."""
        return str(self.headers.get("task") or "")


def _encoded(text: str, encoding: str | None) -> bytes:
    """Return the bytes that AMQP's client, or kombu, has decoded by the message's own encoding."""
    try:
        return text.encode(encoding or "utf-8")
    except (LookupError, UnicodeError):  # not what it was decoded with
        return text.encode(errors="surrogatepass")


@dataclass(frozen=True, slots=True)
class Letter:
    """One message that nobody will run again."""

    id: str
    """Its place among the letters of its queue; empty before it is kept."""
    queue: str
    reason: str
    message: OriginalMessage
    error: str = ""
    """Type and text of what went wrong."""
    traceback: str = ""
    traceback_hash: str = ""
    """The same for failures at the same place, whatever the lines and values."""
    attempts: int = 0
    """How often it was tried; 0 if never."""
    worker: str = ""
    at_ms: int = 0
    """When it was set aside (server's time)."""
    original: bool = True
    """False: the message was gone already, and is written anew from what was known of it (an item of a batch)."""

    def to_fields(self) -> dict[str, bytes | str]:
        """Return the fields of a stream's entry."""
        message = self.message
        texts = {
            "headers": _text(message.headers),
            "properties": _text(message.properties),
            "content_type": message.content_type or "",
            "content_encoding": message.content_encoding or "",
            "task_id": message.task_id,
            "task": message.task,
            "queue": self.queue,
            "reason": self.reason,
            "error": self.error[:ERROR_CHARACTERS],
            "traceback": self.traceback[-TRACEBACK_CHARACTERS:],
            "traceback_hash": self.traceback_hash,
            "attempts": str(self.attempts),
            "worker": self.worker,
            "original": str(int(self.original)),
        }
        return {"body": message.body, **{name: _encodable(text) for name, text in texts.items()}}

    @classmethod
    def from_fields(cls, letter_id: str, fields: dict[bytes, bytes]) -> Letter:
        """Read a stream's entry.

        Raises:
            ValueError: If it is none that ``to_fields`` wrote.
        """
        try:
            return cls(
                id=letter_id,
                queue=fields[b"queue"].decode(),
                reason=fields[b"reason"].decode(),
                message=OriginalMessage(
                    body=fields[b"body"],
                    headers=loads(fields[b"headers"]),  # type: ignore[no-untyped-call]
                    properties=loads(fields[b"properties"]),  # type: ignore[no-untyped-call]
                    content_type=fields[b"content_type"].decode() or None,
                    content_encoding=fields[b"content_encoding"].decode() or None,
                ),
                error=fields[b"error"].decode(),
                traceback=fields[b"traceback"].decode(),
                traceback_hash=fields[b"traceback_hash"].decode(),
                attempts=int(fields[b"attempts"]),
                worker=fields[b"worker"].decode(),
                at_ms=int(letter_id.split("-", 1)[0]),
                original=fields.get(b"original") != b"0",
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"the entry {letter_id} is no dead letter: {error!r}") from error

    def summary(self) -> dict[str, Any]:
        """Return what a list shows, as JSON."""
        return {
            "id": self.id,
            "queue": self.queue,
            "task": self.message.task,
            "task_id": self.message.task_id,
            "reason": self.reason,
            "attempts": self.attempts,
            "error": self.error,
            "traceback_hash": self.traceback_hash,
            "at_ms": self.at_ms,
            "worker": self.worker,
            "bytes": len(self.message.body),
            "original": self.original,
        }


def hash_traceback(text: str, error: str) -> str:
    """Return a short hash of where something failed: files, functions and the exception's type."""
    places = "|".join(f"{file}:{function}" for file, function in _FRAME.findall(text))
    kind = error.split(":", 1)[0]
    return hashlib.sha1(f"{places}|{kind}".encode(), usedforsecurity=False).hexdigest()[:12] if places else ""


def describe(error: BaseException | None) -> str:
    """Return type and text of an exception, whatever its ``__str__`` does, without credentials."""
    if error is None:
        return ""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__
        text = "(no readable text)"
    return protocol.mask_url(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _encodable(text: str) -> str:
    """Return what can be written as UTF-8: halves of characters (file names have such) become escapes."""
    return text.encode(errors="backslashreplace").decode()


def _text(value: Any) -> str:
    try:
        return str(dumps(value))  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        readable = {str(name): repr(each) for name, each in value.items()}
        return str(dumps(readable))  # type: ignore[no-untyped-call]
