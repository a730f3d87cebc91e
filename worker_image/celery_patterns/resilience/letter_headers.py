"""Headers of a letter in RabbitMQ that are too large for AMQP, which has one frame for them: they follow the body.

A message that nearly fills the frame can come, and a letter is that message and more: the broker would end the
connection on which it is published, each time. Bodies take as many frames as they need.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any, Final

from amqp.exceptions import FrameSyntaxError
from amqp.serialization import dumps, loads

from celery_patterns.resilience.letters import OriginalMessage

BEHIND: Final = "celery_patterns_headers_behind"
"""Header in the place of all others: how many bytes at the body's end are their AMQP table."""

_ENDS: Final = 8
"""Bytes of each frame that are about the frame itself."""
_REST: Final = 12 + 2 + 2 + 4 * 256
"""Most bytes that a header frame has beside the headers: its fixed part, flags, delivery mode and priority, and the
content's type and encoding, correlation id and reply-to, of which each is shorter than 256."""


def write_table(headers: dict[str, Any]) -> bytes:
    """Return headers as AMQP writes them.

    Raises:
        FrameSyntaxError: If a value is of a type that AMQP does not have.
    """
    return bytes(dumps("F", [headers]))


def fit(body: bytes, headers: dict[str, Any], table: bytes, frame_bytes: int) -> tuple[bytes, dict[str, Any]]:
    """Return the body and the headers to be published.

    Args:
        body: The letter's.
        headers: The letter's.
        table: The same headers, written.
        frame_bytes: What the connection's two ends allow a frame to have.
    """
    if len(table) <= frame_bytes - _ENDS - _REST:
        return body, headers
    return body + table, {BEHIND: len(table)}


def restore(message: OriginalMessage) -> OriginalMessage:
    """Return a letter's message as it would be had its headers fitted; any other message as it is."""
    size, body = message.headers.get(BEHIND), message.body
    if not isinstance(size, int) or not 0 < size <= len(body):
        return message
    begin = len(body) - size
    try:
        (headers,), end = loads("F", body, begin)
    except (FrameSyntaxError, struct.error, ValueError, ArithmeticError, LookupError, OSError, RecursionError):
        return message  # anybody may write to the queue: what only looks like such a letter hides no other
    return replace(message, body=body[:begin], headers=headers) if end == len(body) else message
