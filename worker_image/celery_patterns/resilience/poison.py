"""Counts how often a message was delivered and dispatched without an end. One Lua script, by the store's clock."""

from __future__ import annotations

import logging
from typing import Any, Final

from celery_patterns.store import Script, Store, StoreError

logger = logging.getLogger(__name__)

KEEP_MS: Final = 7 * 86_400_000
"""Longer than any message waits to be delivered again."""

COUNT: Final = Script(
    """
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
if count <= 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return count
""",
    "count delivery",
)
"""KEYS: the message's counter. ARGV: 1 or -1, keep (ms). Returns how often it came again."""


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
        broker = (message.headers or {}).get("x-delivery-count")
        if isinstance(broker, int):
            return broker + 1
        if not (message.delivery_info or {}).get("redelivered") or self._store is None:
            return 1
        try:
            return 1 + int(self._store.run(COUNT, [_key(self._store, task_id, retries)], [1, KEEP_MS]))
        except StoreError as error:
            logger.warning("the deliveries of %s are not counted, it runs: %s", task_id, error)
            return 1

    def forget(self, message: Any, task_id: str, retries: int) -> None:
        """Take back the count of a delivery that ended in good order, without an end of its task."""
        if not (message.delivery_info or {}).get("redelivered") or self._store is None:
            return
        try:
            self._store.run(COUNT, [_key(self._store, task_id, retries)], [-1, KEEP_MS])
        except StoreError as error:
            logger.warning("a delivery of %s is counted that did not die: %s", task_id, error)

    def clear(self, task_id: str, retries: int = 0) -> None:
        """Forget all deliveries of a message, so that a replay begins anew.

        Raises:
            StoreUnavailable: If the store does not answer.
        """
        if self._store is not None:
            self._store.call(self._store.client.delete, _key(self._store, task_id, retries))


def _key(store: Store, task_id: str, retries: int) -> str:
    return store.key("deliveries", f"{task_id}:{retries}")
