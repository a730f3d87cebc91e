"""Names of keys: ``{<prefix>}:<kind>:<name>``."""

from __future__ import annotations

import hashlib
import re

LONGEST = 200
"""Characters of a name that are kept as they are; longer ones end in a hash, so that keys stay small and readable."""

_HASH_CHARACTERS = 32

_SPECIAL = re.compile(r"[\\*?\[\]]")
"""Characters that mean something in a Redis pattern."""


def key(prefix: str, kind: str, name: str) -> str:
    """Return the key of one thing. The braces put all keys of a prefix into one slot of a Redis Cluster."""
    return f"{{{prefix}}}:{kind}:{shorten(name)}"


def pattern(prefix: str, kind: str) -> str:
    """Return the Redis pattern of the keys of one kind, whatever characters the prefix has."""
    return literal(key(prefix, kind, "")) + "*"


def literal(name: str) -> str:
    """Return the Redis pattern that fits this name alone."""
    return _SPECIAL.sub(r"\\\g<0>", name)


def shorten(name: str) -> str:
    """Return the name, or its beginning and a hash of all of it if it is long."""
    if len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARACTERS]
    return f"{name[: LONGEST - _HASH_CHARACTERS - 1]}~{digest}"


def quote(value: str, separators: str = "") -> str:
    """Return a value so that it can stand in a name between separators: two different pairs never give one name.

    Args:
        value: The value.
        separators: Characters that separate besides the colon.
    """
    special = {*"%:|", *separators}
    return "".join(
        "".join(f"%{byte:02X}" for byte in character.encode()) if character in special else character
        for character in value
    )
