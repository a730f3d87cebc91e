"""A bulkhead: at most so many at once, in the whole fleet, under leases that die with their holders.

Each holder has a place in one sorted set, with the time at which its lease ends. A living holder renews it; the place
of a dead one is free when its lease is over, and no sooner and no later.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from celery_patterns.resilience.chunks import standalone
from celery_patterns.resilience.renewing import Renewals
from celery_patterns.store import Store
from celery_patterns.tasks.errors import TaskRefused

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

TAKE_CHUNK: Final = """
local limit, lease, keep = tonumber(A[1]), tonumber(A[2]), tonumber(A[3])
for _, holder in ipairs(redis.call('ZRANGEBYSCORE', K[1], '-inf', num(now))) do
  if not alive(holder) then redis.call('ZREM', K[1], holder) end
end
local mine = redis.call('ZSCORE', K[1], HOLDER)
local taken = redis.call('ZCARD', K[1])
if not mine and taken >= limit then
  for _, holder in ipairs(redis.call('ZRANGE', K[1], 0, -1)) do
    if of_task(holder) and not alive(holder) then taken = taken - redis.call('ZREM', K[1], holder) end
  end
end
if not mine and taken >= limit then
  local first = redis.call('ZRANGE', K[1], 0, 0, 'WITHSCORES')
  return {1, taken, math.max(0, tonumber(first[2]) - now)}
end
redis.call('ZADD', K[1], num(now + lease), HOLDER)
if redis.call('PTTL', K[1]) < keep then redis.call('PEXPIRE', K[1], keep) end
return {0, mine and taken or taken + 1, 0}
"""
"""K: the bulkhead. A: limit, lease (ms), keep (ms).
Returns {0 taken or 1 full, places taken, ms until a lease ends}. The score of a task is the end of its first lease; as
long as it lives its place is taken, and once its worker has given its lease back the place is free before that.
Holders of longer leases rely on the key, too: nobody shortens its life."""

LEAVE_CHUNK: Final = """
return redis.call('ZREM', K[1], HOLDER)
"""

RENEW_CHUNK: Final = """
if redis.call('ZADD', K[1], 'XX', 'CH', num(now + tonumber(A[1])), HOLDER) == 0
   and not redis.call('ZSCORE', K[1], HOLDER) then return 0 end
if redis.call('PTTL', K[1]) < tonumber(A[2]) then redis.call('PEXPIRE', K[1], A[2]) end
return 1
"""
"""K: the bulkhead. A: lease (ms), keep (ms). Returns 0 if the place was lost."""

LOOK_CHUNK: Final = """
local living, places = 0, redis.call('ZRANGE', K[1], 0, -1, 'WITHSCORES')
for i = 1, #places, 2 do
  local lives = tonumber(places[i + 1]) > now
  if of_task(places[i]) then lives = alive(places[i]) end
  if lives then living = living + 1 end
end
return living
"""

TAKE: Final = standalone(TAKE_CHUNK, "bulkhead take")
LEAVE: Final = standalone(LEAVE_CHUNK, "bulkhead leave")
RENEW: Final = standalone(RENEW_CHUNK, "bulkhead renew")
LOOK: Final = standalone(LOOK_CHUNK, "bulkhead look")

POLL_SECONDS: Final = (0.02, 0.5)
"""First and longest pause of one who waits for a place."""


class BulkheadFull(TaskRefused):
    """All places are taken. ``retry_after`` is in seconds: when the next lease ends if nobody leaves before."""

    def __init__(self, name: str, limit: int, retry_after: float) -> None:
        super().__init__(name, limit, retry_after)
        self.bulkhead = name
        self.limit = limit
        self.retry_after = retry_after

    def __str__(self) -> str:  # type: ignore[explicit-override]
        return f"the bulkhead {self.bulkhead!r} is full: all {self.limit} places are taken"


@dataclass(frozen=True, slots=True)
class Place:
    """One taken place; give it back with ``leave``."""

    holder: str


def keep_ms(lease_seconds: float) -> int:
    """Return how long a bulkhead is remembered that nobody enters: longer than the last lease lasts."""
    return int(2 * lease_seconds * 1000) + 60_000


class Bulkhead:
    """At most ``limit`` holders at once in all processes; a context manager, a decorator, or enter and leave.

    A thread of this process renews what it holds; a process that is killed, or stopped for longer than a lease, loses
    its places. Safe for threads.

    Args:
        store: The state store.
        name: Usually what is protected.
        limit: How many places there are.
        lease_seconds: How long a dead holder's place stays taken.
        wait_seconds: How long to wait for a place before giving up.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self, store: Store, name: str, limit: int, *, lease_seconds: float = 30.0, wait_seconds: float = 0.0
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be a whole number of 1 or more, got {limit!r}")
        if not 0.3 <= lease_seconds <= 3600:
            raise ValueError(f"lease_seconds must be 0.3 to 3600, got {lease_seconds!r}")
        if wait_seconds < 0:
            raise ValueError(f"wait_seconds must be 0 or more, got {wait_seconds!r}")
        self.name = name
        self.limit = limit
        self.key = store.key("bulkhead", name)
        self._store = store
        self._lease_ms = int(lease_seconds * 1000)
        self._keep_ms = keep_ms(lease_seconds)
        self._wait_seconds = wait_seconds
        self._renewals = Renewals(self._renew, lease_seconds / 3, f"bulkhead-{name}")
        self._local = threading.local()

    def enter(self) -> Place:
        """Take a place.

        Raises:
            BulkheadFull: If there is none within ``wait_seconds``.
            StoreUnavailable: If the store does not answer.
        """
        holder = uuid.uuid4().hex
        deadline = time.monotonic() + self._wait_seconds
        pause, longest = POLL_SECONDS
        while True:
            full, _, left = self._store.run(TAKE, [self.key], [holder, self.limit, self._lease_ms, self._keep_ms])
            if not full:
                self._renewals.add(holder)
                return Place(holder)
            rest = deadline - time.monotonic()
            if rest <= 0:
                raise BulkheadFull(self.name, self.limit, int(left) / 1000)
            time.sleep(min(rest, pause * (0.5 + random.random())))
            pause = min(pause * 1.5, longest)

    def leave(self, place: Place) -> None:
        """Give a place back.

        Raises:
            StoreUnavailable: If the store does not answer; the place is then free when its lease is over.
        """
        self._renewals.drop(place.holder)
        self._store.run(LEAVE, [self.key], [place.holder])

    def taken(self) -> int:
        """Return how many places are taken by the living.

        Raises:
            StoreUnavailable: If the store does not answer.
        """
        return int(self._store.run(LOOK, [self.key], [""]))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function."""

        @functools.wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return limited

    def __enter__(self) -> Self:
        place = self.enter()
        if not hasattr(self._local, "places"):
            self._local.places = []
        self._local.places.append(place)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave(self._local.places.pop())

    def _renew(self, holder: str) -> bool:
        return bool(self._store.run(RENEW, [self.key], [holder, self._lease_ms, self._keep_ms]))


def read_take(reply: Any) -> tuple[bool, float]:
    """Read what TAKE_CHUNK returned: whether it is full, and seconds until a lease ends."""
    return bool(int(reply[0])), int(reply[2]) / 1000
