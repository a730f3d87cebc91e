"""redis-py's exceptions, or stand-ins that nothing raises where it is not installed.

The agent is injected into images that may have another broker and another result backend; it then guards nothing, but
counts, drains and answers probes.
"""

from __future__ import annotations

__all__ = ["PASSING", "ConnectionError", "NoScriptError", "RedisError"]

try:
    from redis.exceptions import (
        ConnectionError,  # noqa: A004 - redis-py's, no OSError
        NoScriptError,
        OutOfMemoryError,
        ReadOnlyError,
        RedisError,
        TimeoutError,  # noqa: A004 - see above
    )

    PASSING: tuple[type[Exception], ...] = (ConnectionError, OutOfMemoryError, ReadOnlyError, TimeoutError)
    """Errors of a server that is in trouble, not of what it was asked."""
except ImportError:

    class RedisError(Exception):  # type: ignore[no-redef]
        """Stands for redis-py's."""

    class ConnectionError(RedisError):  # type: ignore[no-redef] # noqa: A001 - see above
        """Stands for redis-py's."""

    class NoScriptError(RedisError):  # type: ignore[no-redef]
        """Stands for redis-py's."""

    PASSING = ()
