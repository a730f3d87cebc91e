"""A broker, a result backend and the connections to them, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import BrokerError, ResultBackendError, SpecError
from celery_operator.domain.messages import Claim, TaskMessage, TaskResult
from celery_patterns.protocol import Announcement


class FakeBroker:
    """The port ``Broker``: queues of messages. ``error`` is raised by every call while it is set."""

    def __init__(self) -> None:
        self.queues: dict[str, int] = {}
        self.published: list[TaskMessage] = []
        self.revoked: list[str] = []
        self.error: BrokerError | None = None

    async def waiting(self, queues: Sequence[str]) -> Mapping[str, int]:
        self._answer()
        return {queue: self.queues.get(queue, 0) for queue in queues}

    async def publish(self, messages: Sequence[TaskMessage]) -> None:
        self._answer()
        for message in messages:
            self.published.append(message)
            self.queues[message.queue] = self.queues.get(message.queue, 0) + 1

    async def revoke(self, task_ids: Sequence[str]) -> None:
        self._answer()
        self.revoked.extend(task_ids)

    async def close(self) -> None:
        pass

    def _answer(self) -> None:
        if self.error is not None:
            raise self.error


class FakeResultBackend:
    """The port ``ResultBackend``: results and claims that a test puts there."""

    def __init__(self) -> None:
        self.results: dict[str, TaskResult] = {}
        self.claimed: dict[str, Claim] = {}
        self.batches: list[tuple[Announcement, ...]] = []
        self.error: ResultBackendError | None = None

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, TaskResult]:
        await self.check()
        return {task_id: self.results[task_id] for task_id in task_ids if task_id in self.results}

    async def claims(self, task_ids: Sequence[str]) -> Mapping[str, Claim]:
        await self.check()
        return {task_id: self.claimed[task_id] for task_id in task_ids if task_id in self.claimed}

    async def abandon(self, task_ids: Sequence[str]) -> frozenset[str]:
        await self.check()
        free = {each for each in task_ids if each not in self.claimed or self.claimed[each].lease_over}
        self.claimed.update(dict.fromkeys(free, Claim("abandoned")))
        return frozenset(free)

    async def announcements(self) -> AsyncIterator[tuple[Announcement, ...]]:
        yield ()
        for batch in self.batches:
            yield batch

    async def check(self) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        pass


class FakeConnections:
    """The port ``Connections``: one broker and one backend for each URL; only redis and amqp are served."""

    def __init__(self) -> None:
        self.brokers: dict[str, FakeBroker] = {}
        self.backends: dict[str, FakeResultBackend] = {}

    def broker(self, url: str) -> FakeBroker:
        if not url.startswith(("redis://", "amqp://")):
            raise SpecError(Reason.UNSUPPORTED_BROKER, "this transport is not served")
        return self.brokers.setdefault(url, FakeBroker())

    def result_backend(self, url: str) -> FakeResultBackend:
        if not url.startswith("redis://"):
            raise SpecError(Reason.UNSUPPORTED_BACKEND, "this result backend is not served")
        return self.backends.setdefault(url, FakeResultBackend())
