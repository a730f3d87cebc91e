"""Counts how often a message was delivered and dispatched without an end. One Lua script, by the store's clock."""

from __future__ import annotations

import logging
from typing import Any, Final

from kombu.transport import virtual

from celery_patterns.store import Script, Store, StoreError

logger = logging.getLogger(__name__)

KEEP_MS: Final = 7 * 86_400_000
"""Longer than any message waits to be delivered again."""

COUNT: Final = Script(
    """
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
if count < -1 then
  count = -1
  redis.call('SET', KEYS[1], count)
end
if count == 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return count
""",
    "count delivery",
)
"""KEYS: the message's counter. ARGV: 1 or -1, keep (ms). Returns how often it came again after a loss; -1 while its
first delivery has gone back in good order, so that the next counts as the first."""


class Deliveries:
    """Counts the deliveries of messages that came before.

    The first delivery of a message costs nothing: only one that the broker marks as redelivered is counted.

    Args:
        store: The state store; None: only what the broker itself counts (RabbitMQ's quorum queues) is known.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store

    def count(self, message: Any, task_id: str, retries: int) -> int:
        """Count a delivery that is about to run, and return which one it is; 1 if that cannot be told."""
        by_broker = _counted_by_broker(message)
        if by_broker is not None:
            return by_broker + 1
        if is_first_delivery(message) or self._store is None:
            return 1
        try:
            return 1 + int(self._store.run(COUNT, [_key(self._store, task_id, retries)], [1, KEEP_MS]))
        except StoreError as error:
            logger.warning("the deliveries of %s are not counted, it runs: %s", task_id, error)
            return 1

    def forget(self, message: Any, task_id: str, retries: int) -> bool:
        """Take back the count of a delivery that ended in good order, without an end of its task.

        Returns False if the store does not answer: the delivery stays counted. What the broker itself counts stays
        counted in any case.
        """
        if self._store is None or _counted_by_broker(message) is not None:
            return True
        try:
            self._store.run(COUNT, [_key(self._store, task_id, retries)], [-1, KEEP_MS])
        except StoreError as error:
            logger.warning("a delivery of %s is counted that did not die: %s", task_id, error)
            return False
        return True

    def clear(self, task_id: str, retries: int = 0) -> None:
        """Forget all deliveries of a message, so that a replay begins anew.

        Raises:
            StoreUnavailable: If the store does not answer.
        """
        if self._store is not None:
            self._store.call(self._store.client.delete, _key(self._store, task_id, retries))


def is_first_delivery(message: Any) -> bool:
    """Whether the broker gives this message out for the first time."""
    return not (message.delivery_info or {}).get("redelivered")


def _counted_by_broker(message: Any) -> int | None:
    """Return how often RabbitMQ gave this message out before; None: this queue, or broker, does not count.

    On brokers that kombu plays itself (Redis) nobody but the sender can have written that header.
    """
    count = (message.headers or {}).get("x-delivery-count")
    trusted = type(count) is int and count >= 0 and not isinstance(message, virtual.Message)
    return count if trusted else None


def _key(store: Store, task_id: str, retries: int) -> str:
    return store.key("deliveries", f"{task_id}:{retries}")
