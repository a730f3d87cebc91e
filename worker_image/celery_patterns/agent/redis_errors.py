"""redis-py's exceptions, or stand-ins that nothing raises where it is not installed.

The agent is injected into images that may have another broker and another result backend; it then guards nothing, but
counts, drains and answers probes.
"""

from __future__ import annotations

__all__ = ["ConnectionError", "NoScriptError", "RedisError"]

try:
    from redis.exceptions import ConnectionError, NoScriptError, RedisError  # noqa: A004 - redis-py's, no OSError
except ImportError:

    class RedisError(Exception):  # type: ignore[no-redef]
        """Stands for redis-py's."""

    class ConnectionError(RedisError):  # type: ignore[no-redef] # noqa: A001 - see above
        """Stands for redis-py's."""

    class NoScriptError(RedisError):  # type: ignore[no-redef]
        """Stands for redis-py's."""
