"""The part of JSONPath that names one value: RFC 9535's singular queries, such as ``$.rows[0]['first name']``.

Wildcards, filters and slices can name many values or none; an argument is one value, so they are refused. A library
for the whole language would bring an expression evaluator into every worker for what is a walk down a tree.
"""

from __future__ import annotations

import re
from typing import Any

_SEGMENT = re.compile(
    r"""\.(?P<name>[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff-]*)
      | \[\s*(?P<index>-?(?:0|[1-9][0-9]*))\s*\]
      | \[\s*(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*\]""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)")
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\", "'": "'", '"': '"'}


def parse(path: str) -> tuple[str | int, ...]:
    """Return the keys and indexes that lead to the value.

    Raises:
        ValueError: If the path is not a singular query; the message shows where it stops being one.
    """
    if not path.startswith("$"):
        raise ValueError(f"a path begins with $, for example $.rows[0]; got {path!r}")
    segments: list[str | int] = []
    position = 1
    while position < len(path):
        match = _SEGMENT.match(path, position)
        if match is None:
            raise ValueError(
                f"path {path!r} cannot be read from {path[position:]!r} on: expected .name, [0] or ['name']"
            )
        segments.append(_segment(match))
        position = match.end()
    return tuple(segments)


def select(value: Any, path: str) -> Any:
    """Return the value that ``path`` names inside ``value``.

    Raises:
        ValueError: If the path cannot be parsed.
        LookupError: If there is nothing at the path; the message says how far it leads.
    """
    done = "$"
    for segment in parse(path):
        step = f"[{segment}]" if isinstance(segment, int) else f"[{segment!r}]"
        if isinstance(segment, int):
            found = isinstance(value, list) and -len(value) <= segment < len(value)
        else:
            found = isinstance(value, dict) and segment in value
        if not found:
            raise LookupError(f"path {path!r}: there is no {step} in the {_kind(value)} at {done}")
        value = value[segment]
        done += step
    return value


def _segment(match: re.Match[str]) -> str | int:
    if match["name"] is not None:
        return match["name"]
    if match["index"] is not None:
        return int(match["index"])
    return _ESCAPE.sub(_unescape, match["quoted"][1:-1])


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    if code not in _ESCAPED:
        raise ValueError(f"unknown escape {match[0]!r} in a quoted name")
    return _ESCAPED[code]


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")
