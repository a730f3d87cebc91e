"""JSONPath, as far as one value is selected: names and indexes of RFC 9535 (``$.a.b[0]['c d']``).

The operator checks the paths that users write, and workers follow them: both by this module. Wildcards, slices, filters
and ``..`` select many values and are refused: an argument is one value. A library for the whole language would bring an
expression evaluator into every worker for what is a walk down a tree.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

Segment = str | int
"""A member's name or an element's index; negative indexes count from the end."""

WHOLE = "$"
"""The path of the value itself."""

_NAME = re.compile(r"\.(?P<name>[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff]*)")
_INDEX = re.compile(r"\[[ \t\r\n]*(?P<index>0|-?[1-9][0-9]{0,15})[ \t\r\n]*\]")
_SINGLE = re.compile(r"\[[ \t\r\n]*'(?P<text>(?:[^'\\\x00-\x1f]|\\.)*)'[ \t\r\n]*\]")
_DOUBLE = re.compile(r'\[[ \t\r\n]*"(?P<text>(?:[^"\\\x00-\x1f]|\\.)*)"[ \t\r\n]*\]')
_KEPT_PATHS = 4096
"""Parsed paths that are remembered: more than one large workflow has."""


class PathError(ValueError):
    """A path is malformed, or selects nothing in a value."""


@lru_cache(maxsize=_KEPT_PATHS)
def parse(path: str) -> tuple[Segment, ...]:
    """Return the segments of a path; none for ``$``. Raises PathError, naming the position."""
    if not path.startswith(WHOLE):
        raise PathError(f"the path {path!r} must begin with $")
    segments: list[Segment] = []
    at = 1
    while at < len(path):
        if match := _NAME.match(path, at):
            segments.append(match["name"])
        elif match := _INDEX.match(path, at):
            segments.append(int(match["index"]))
        elif match := (_SINGLE.match(path, at) or _DOUBLE.match(path, at)):
            segments.append(_unquoted(path, match["text"], single=match.re is _SINGLE))
        else:
            raise PathError(
                f"the path {path!r} cannot be read at character {at + 1}: use .name, ['name'] and [index] "
                "(wildcards, slices and filters select many values and are not served)"
            )
        at = match.end()
    return tuple(segments)


def _unquoted(path: str, text: str, *, single: bool) -> str:
    # JSON knows the same escapes, but for the quote of the other kind.
    body = text.replace("\\'", "'").replace('"', '\\"') if single else text
    try:
        return str(json.loads(f'"{body}"'))
    except ValueError as error:
        raise PathError(f"the path {path!r} has a name with a wrong escape: {text!r}") from error


def select(value: Any, path: str) -> Any:
    """Return what the path selects in a JSON value. Raises PathError if that is nothing."""
    for number, segment in enumerate(segments := parse(path)):
        if isinstance(segment, str):
            if not isinstance(value, dict) or segment not in value:
                raise PathError(_nothing(path, segments[:number], f"no member {segment!r}", value))
            value = value[segment]
        else:
            if not isinstance(value, list) or not -len(value) <= segment < len(value):
                raise PathError(_nothing(path, segments[:number], f"no element {segment}", value))
            value = value[segment]
    return value


def _nothing(path: str, before: tuple[Segment, ...], what: str, value: Any) -> str:
    return f"the path {path!r} selects nothing: {to_text(before)} is {describe(value)} and has {what}"


def describe(value: Any) -> str:
    """Name a JSON value's type for people, with the length of a list. Never shows the value."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"


def to_text(segments: tuple[Segment, ...]) -> str:
    """Return the path with these segments, in the one form that is sent to workers."""
    return WHOLE + "".join(_segment_text(segment) for segment in segments)


def _segment_text(segment: Segment) -> str:
    if isinstance(segment, int):
        return f"[{segment}]"
    if _NAME.fullmatch(f".{segment}"):
        return f".{segment}"
    return f"[{json.dumps(segment, ensure_ascii=False)}]"


def join(path: str, further: str) -> str:
    """Return the path that first follows ``path``, then ``further``."""
    return path + further[len(WHOLE) :]
