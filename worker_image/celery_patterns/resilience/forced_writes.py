"""Writing what must not be lost to a Redis without memory.

Redis refuses commands that need memory once it has none, scripts among them, except those that say in their first line
that they write all the same (``allow-oom``: Redis 7 and later, Valkey). Only for what was taken from the same Redis a
moment ago and goes back there: that needs no more memory than there was.
"""

from __future__ import annotations

from typing import Any, Final

from redis.exceptions import ResponseError

HOLD: Final = """#!lua flags=allow-oom
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
"""

PUSH: Final = """#!lua flags=allow-oom
return redis.call(ARGV[1], KEYS[1], ARGV[2])
"""


def force(client: Any, script: str, keys: list[str], arguments: list[Any]) -> bool:
    """Run one of these scripts. False: this Redis is older, or its user may not run scripts; nothing is written then.

    Raises:
        redis.exceptions.ConnectionError: If it does not answer.
    """
    try:
        client.eval(script, len(keys), *keys, *arguments)
    except ResponseError:
        return False
    return True
