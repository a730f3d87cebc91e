"""Changing a message's arguments before it is sent again: ``args[0]=5``, ``kwargs.user.name="x"``. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from kombu.exceptions import DecodeError
from kombu.serialization import dumps, loads

from celery_patterns.resilience.decompression import decompress
from celery_patterns.resilience.letters import OriginalMessage
from celery_patterns.resilience.settings import MAX_MESSAGE_BYTES

READABLE: Final = {"application/json": "json", "application/x-yaml": "yaml", "application/x-msgpack": "msgpack"}
"""Content types that can be read without running what they say."""

_STEP: Final = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_-]*)|\[(-?\d+)\]|\[\"([^\"]+)\"\]")


class PatchError(ValueError):
    """A patch cannot be read, or does not fit the message."""


def parse_assignment(text: str) -> tuple[list[str | int], Any]:
    """Read ``path=value``; the value is JSON, or else a text as it stands.

    Raises:
        PatchError: If there is no ``=`` or the path is none.
    """
    path, equals, value = text.partition("=")
    if not equals:
        raise PatchError(f"expected path=value such as args[0]=5 or kwargs.name=x, got {text!r}")
    try:
        return parse_path(path), json.loads(value)
    except ValueError as error:
        if isinstance(error, PatchError):
            raise
        return parse_path(path), value


def parse_path(text: str) -> list[str | int]:
    """Read ``args[0].name`` as steps.

    Raises:
        PatchError: If it is no path that begins with ``args`` or ``kwargs``.
    """
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        found = _STEP.match(text, position)
        if found is None:
            raise PatchError(f"expected a path such as args[0] or kwargs.user.name, got {text!r}")
        steps.append(int(found[2]) if found[2] is not None else found[1] or found[3])
        position = found.end()
    if len(steps) < 2 or steps[0] not in ("args", "kwargs"):
        raise PatchError(f"expected a path into args or kwargs such as args[0] or kwargs.name, got {text!r}")
    return steps


def read_arguments(message: OriginalMessage) -> list[Any]:
    """Return the body of a task message: ``[args, kwargs, embed]``.

    Raises:
        PatchError: If it cannot be read safely, or is none.
    """
    kind = message.content_type or ""
    if kind == "application/data":
        raise PatchError("the message is signed: a patch would break its signature; send a new task instead")
    if kind not in READABLE:
        raise PatchError(f"a message of content type {kind!r} is not read: only {', '.join(sorted(READABLE))} are")
    body = message.body
    try:
        if "compression" in message.headers:
            body = decompress(body, message.headers["compression"], MAX_MESSAGE_BYTES)
        # From here a text body is what its encoding says.
        text: Any = body if message.content_encoding == "binary" else body.decode(message.content_encoding or "utf-8")
        encoding = message.content_encoding
        decoded = loads(text, kind, encoding, accept={kind})  # type: ignore[no-untyped-call]
    except (DecodeError, LookupError, ValueError, OSError) as error:
        raise PatchError(f"the message's body cannot be read: {error}") from error
    if not isinstance(decoded, (list, tuple)) or len(decoded) != 3 or not isinstance(decoded[1], dict):
        raise PatchError("the message's body is no task message of protocol 2")
    return [list(decoded[0]), decoded[1], decoded[2]]


def patch(message: OriginalMessage, assign: Sequence[str] = (), delete: Sequence[str] = ()) -> OriginalMessage:
    """Return the message with arguments set and deleted; everything else stays as it is.

    Raises:
        PatchError: If a patch cannot be read or does not fit.
    """
    if not assign and not delete:
        return message
    args, kwargs, embed = read_arguments(message)
    for text in assign:
        path, value = parse_assignment(text)
        parent, last = _walk({"args": args, "kwargs": kwargs}, path, text)
        if isinstance(parent, list) and last == len(parent):
            parent.append(value)
        else:
            _check(parent, last, text)
            parent[last] = value
    for text in delete:
        parent, last = _walk({"args": args, "kwargs": kwargs}, parse_path(text), text)
        _check(parent, last, text, exists=True)
        del parent[last]
    serializer = READABLE[message.content_type or ""]
    kind, encoding, body = dumps([args, kwargs, embed], serializer=serializer)  # type: ignore[no-untyped-call]
    headers = {name: value for name, value in message.headers.items() if name != "compression"}
    headers["argsrepr"], headers["kwargsrepr"] = repr(tuple(args))[:1024], repr(kwargs)[:1024]
    return OriginalMessage(
        body=body.encode() if isinstance(body, str) else body,
        headers=headers,
        properties=message.properties,
        content_type=kind,
        content_encoding=encoding,
    )


def _walk(root: Any, path: list[str | int], text: str) -> tuple[Any, Any]:
    parent = root
    for step in path[:-1]:
        _check(parent, step, text, exists=True)
        parent = parent[step]
    return parent, path[-1]


def _check(parent: Any, step: str | int, text: str, *, exists: bool = False) -> None:
    if isinstance(parent, list):
        if not isinstance(step, int) or not -len(parent) <= step < len(parent):
            raise PatchError(f"{text!r}: {step!r} is no position in a list of {len(parent)}")
    elif isinstance(parent, dict):
        if not isinstance(step, str) or (exists and step not in parent):
            raise PatchError(f"{text!r}: there is no {step!r}; there are: {', '.join(map(str, parent)) or 'none'}")
    else:
        raise PatchError(f"{text!r}: {step!r} leads into a {type(parent).__name__}, which has no parts")
