"""Which queues pools serve whose workers guard attempts: what is lost there may be published again without a word."""

from __future__ import annotations

from collections.abc import Iterable

from celery_operator.services.ports import ObjectKey


class GuardedQueues:
    """The queues of the pools whose workers carry the agent, as far as these have been reconciled."""

    def __init__(self) -> None:
        self._of_pool: dict[ObjectKey, tuple[str, frozenset[str]]] = {}

    def note(self, pool: ObjectKey, broker_url: str, queues: Iterable[str]) -> None:
        """Take note of what a pool serves now, at whatever number of replicas; nothing, if it has no agent."""
        self._of_pool[pool] = broker_url, frozenset(queues)

    def forget(self, pool: ObjectKey) -> None:
        """Take note that a pool is gone."""
        self._of_pool.pop(pool, None)

    def serves(self, broker_url: str, queue: str) -> bool:
        """Whether a pool serves this queue of this broker."""
        return any(url == broker_url and queue in queues for url, queues in self._of_pool.values())
