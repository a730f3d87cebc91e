"""Garbage in a Redis queue: what is no message at all becomes one that says so.

kombu's Redis transport reads a queue's entry as JSON outside of every handler: an entry that is none ends the worker,
and the next one, and so on, each taking one entry with it. Here such an entry is wrapped into an envelope, so that it
takes the way of every message that cannot be decoded.
"""

from __future__ import annotations

import base64
import threading
import uuid
from typing import Any, Final

from celery_patterns.resilience import broker_memory

CONTENT_TYPE: Final = "application/x-undecodable"
"""Accepted by nobody: Celery hands the message to on_decode_error."""

_local = threading.local()
_installed: list[Any] = []


def install() -> None:
    """Make kombu's Redis transport survive garbage, in this process; twice is once."""
    if _installed:
        return
    from kombu.transport import redis  # noqa: PLC0415 - only where the broker is Redis

    broker_memory.install()
    transport: Any = redis
    read, parse = transport.Channel._brpop_read, transport.loads  # noqa: SLF001

    def careful_read(self: Any, **options: Any) -> Any:
        _local.reading = True
        try:
            return read(self, **options)
        finally:
            _local.reading = False

    def careful_parse(text: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(_local, "reading", False):
            return parse(text, *args, **kwargs)
        # The first text of a read is the queue's entry. What is parsed after it, while the message is delivered (one
        # that goes back at once is read from where kombu notes it), has another form.
        _local.reading = False
        try:
            payload = parse(text, *args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever the parser says of it, it is no message
            return envelope(text)
        return payload if is_message(payload) else envelope(text)

    deliver = transport.Transport._deliver  # noqa: SLF001

    def careful_deliver(self: Any, message: Any, queue: Any) -> Any:
        if isinstance(message, dict) and message.get("content-type") == CONTENT_TYPE:
            message["properties"]["delivery_info"]["routing_key"] = queue
        return deliver(self, message, queue)

    transport.Transport._deliver = careful_deliver  # noqa: SLF001
    transport.Channel._brpop_read, transport.loads = careful_read, careful_parse  # noqa: SLF001
    _installed.append(read)


def is_message(payload: Any) -> bool:
    """Whether kombu can make a message of what it read."""
    if not isinstance(payload, dict) or not isinstance(payload.get("properties"), dict):
        return False
    properties, body = payload["properties"], payload.get("body")
    if "delivery_tag" not in properties or not isinstance(properties.get("delivery_info"), dict):
        return False
    if body is not None and not isinstance(body, str):
        return False
    if properties.get("body_encoding") == "base64" and body:
        try:
            base64.b64decode(body)
        except ValueError:
            return False
    return isinstance(payload.get("headers"), (dict, type(None)))


def envelope(text: Any) -> dict[str, Any]:
    """Return a message of kombu's form around what was found."""
    raw = text if isinstance(text, bytes) else str(text).encode(errors="surrogatepass")
    return {
        "body": base64.b64encode(raw).decode(),
        "content-type": CONTENT_TYPE,
        "content-encoding": "binary",
        "headers": {},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": ""},
            "priority": 0,
        },
    }
