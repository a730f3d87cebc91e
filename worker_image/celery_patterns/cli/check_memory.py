"""What doctor looks at in a Redis's memory: what it deletes, how full it is, and whether it is used up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redis.exceptions import RedisError

from celery_patterns.cli.findings import Finding, error, ok, warning
from celery_patterns.store import place

FULL = 0.8
"""Share of the memory from which on somebody should look: a backlog grows faster than people react."""

MIB = 2**20


def memory(info: dict[str, Any], client: Any, whose: str) -> Iterator[Finding]:
    """Judge what INFO says of it."""
    policy = str(info.get("maxmemory_policy", "noeviction"))
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if policy != "noeviction" and (limit or policy.startswith("allkeys")):
        what = "any key, queues included" if policy.startswith("allkeys") else "keys with a TTL: results, locks, leases"
        yield error(
            "eviction",
            f"{whose}maxmemory-policy is {policy}: when memory is short it deletes {what}",
            "CONFIG SET maxmemory-policy noeviction (and in redis.conf)",
        )
    else:
        yield ok("eviction", f"{whose}maxmemory-policy is {policy}")
    # Buffers of replicas and of the append-only file do not count, as the server says.
    counted = used - int(info.get("mem_not_counted_for_evict", 0))
    if limit and policy == "noeviction" and counted > limit:
        yield used_up(client)
    elif limit and used > FULL * limit:
        yield warning(
            "memory",
            f"{whose}{used / MIB:.0f} of {limit / MIB:.0f} MiB are used; when full, every write is refused",
            "more memory, a shorter result_expires, or fewer waiting messages",
        )


def used_up(client: Any) -> Finding:
    """Say that a server has no memory: the same words for each who meets it, so that it is told once."""
    try:
        limit = f"maxmemory, {int(client.info('memory').get('maxmemory', 0)) / MIB:.1f} MiB, is used up"
    except RedisError:  # this user may not ask
        limit = "maxmemory is used up"
    return error(
        "memory",
        f"{place.of(client)}: {limit}, and every write is refused: nothing is sent, stored or taken from a queue",
        "CONFIG SET maxmemory to more (and in redis.conf), or remove what fills it: old results, dead letters, queues",
    )
