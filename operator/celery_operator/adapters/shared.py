"""Brokers and result backends with many users: opened when somebody needs them, closed when nobody has for long.

Their users keep them for as long as they like: what was closed opens again with the next question.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from celery_operator.domain.messages import Claim, TaskMessage, TaskResult
from celery_operator.services.ports import Broker, Clock, ResultBackend
from celery_patterns.protocol import Announcement


class Closable(Protocol):
    """What can be opened again after it was closed."""

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


C = TypeVar("C", bound=Closable)


class Shared(Generic[C]):
    """One server's connections, and since when nobody uses them.

    Args:
        opener: Makes the connections' owner; what it raises for a wrong URL is raised here.
        clock: Time.
        used: Called with it whenever somebody begins to use it.
    """

    def __init__(self, opener: Callable[[], C], clock: Clock, used: Callable[[Any], None]) -> None:
        self._opener = opener
        self._clock = clock
        self._used = used
        self._open: C | None = opener()
        self._users = 0
        self._left_at = clock.monotonic()

    @contextmanager
    def use(self) -> Iterator[C]:
        """Give the open one; it stays open at least until the block ends."""
        if self._open is None:
            self._open = self._opener()
        self._users += 1
        self._used(self)
        try:
            yield self._open
        finally:
            self._users -= 1
            self._left_at = self._clock.monotonic()

    def idle_for(self, seconds: float) -> bool:
        """Say whether nobody has used it for so long."""
        return not self._users and self._clock.monotonic() - self._left_at >= seconds

    async def close(self) -> None:
        """Let go of connections and threads until it is used again."""
        was_open = self.give_up()
        if was_open is not None:
            await was_open.close()

    def give_up(self) -> C | None:
        """Return what is open, to be closed by the caller; whoever uses this from now on opens anew."""
        was_open, self._open = self._open, None
        return was_open


class SharedBroker(Shared[Broker]):
    """The port ``Broker``."""

    async def waiting(self, queues: Sequence[str]) -> Mapping[str, int]:
        """See the port."""
        with self.use() as broker:
            return await broker.waiting(queues)

    async def publish(self, messages: Sequence[TaskMessage]) -> None:
        """See the port."""
        with self.use() as broker:
            await broker.publish(messages)

    async def revoke(self, task_ids: Sequence[str]) -> None:
        """See the port."""
        with self.use() as broker:
            await broker.revoke(task_ids)


class SharedBackend(Shared[ResultBackend]):
    """The port ``ResultBackend``."""

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, TaskResult]:
        """See the port."""
        with self.use() as backend:
            return await backend.read(task_ids)

    async def claims(self, task_ids: Sequence[str]) -> Mapping[str, Claim]:
        """See the port."""
        with self.use() as backend:
            return await backend.claims(task_ids)

    async def abandon(self, task_ids: Sequence[str]) -> frozenset[str]:
        """See the port."""
        with self.use() as backend:
            return await backend.abandon(task_ids)

    async def announcements(self) -> AsyncIterator[tuple[Announcement, ...]]:
        """See the port. Listening is using."""
        with self.use() as backend:
            async for batch in backend.announcements():
                yield batch

    async def check(self) -> None:
        """See the port."""
        with self.use() as backend:
            await backend.check()
