"""Workers with the agent, in memory: broker, result backend and announcements as one small world."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from celery_operator.domain.errors import BrokerError, ResultBackendError
from celery_operator.domain.messages import Claim, TaskMessage, TaskResult
from celery_patterns.protocol import INLINE_VALUE_BYTES, Announcement, ResultReference

Function = Callable[..., Any]


class SimulatedWorkers:
    """The ports ``Broker``, ``ResultBackend`` and ``Connections`` at once.

    A published task runs at once, and once for each id, unless ``paused``; then it waits in ``queue``. What workers
    announce is heard only while ``announcing``. ``starts`` is the ledger: how often each id began.
    """

    def __init__(self, **functions: Function) -> None:
        self.functions = functions
        self.starts: Counter[str] = Counter()
        self.ran: list[str] = []
        self.results: dict[str, TaskResult] = {}
        self.claimed: dict[str, Claim] = {}
        self.queue: list[TaskMessage] = []
        self.revoked: list[str] = []
        self.paused = False
        self.announcing = True
        self.broker_error: BrokerError | None = None
        self.backend_error: ResultBackendError | None = None
        self.sendable = asyncio.Event()
        """Cleared: messages are on their way to the broker, for as long as the test likes."""
        self.sendable.set()
        self.defect: Exception | None = None
        """Raised when something is published: no error of a broker, but one nobody has thought of."""
        self.reads = 0
        self._channels: list[asyncio.Queue[tuple[Announcement, ...]]] = []

    # Connections

    def broker(self, url: str) -> SimulatedWorkers:  # noqa: ARG002 - the port's signature
        return self

    def result_backend(self, url: str) -> SimulatedWorkers:  # noqa: ARG002 - the port's signature
        return self

    # Broker

    async def waiting(self, queues: Sequence[str]) -> Mapping[str, int]:
        if self.broker_error is not None:
            raise self.broker_error
        return {queue: sum(message.queue == queue for message in self.queue) for queue in queues}

    async def publish(self, messages: Sequence[TaskMessage]) -> None:
        if self.broker_error is not None:
            raise self.broker_error
        await self.sendable.wait()
        if self.defect is not None:
            raise self.defect
        self.queue.extend(messages)
        if not self.paused:
            self.run_all()

    async def revoke(self, task_ids: Sequence[str]) -> None:
        self.revoked.extend(task_ids)

    async def close(self) -> None:
        pass

    # ResultBackend

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, TaskResult]:
        await self.check()
        self.reads += 1
        return {each: self.results[each] for each in task_ids if each in self.results}

    async def claims(self, task_ids: Sequence[str]) -> Mapping[str, Claim]:
        await self.check()
        return {each: self.claimed[each] for each in task_ids if each in self.claimed}

    async def abandon(self, task_ids: Sequence[str]) -> frozenset[str]:
        await self.check()
        return frozenset(each for each in task_ids if each not in self.claimed or self.claimed[each].lease_over)

    async def announcements(self) -> AsyncIterator[tuple[Announcement, ...]]:
        channel: asyncio.Queue[tuple[Announcement, ...]] = asyncio.Queue()
        self._channels.append(channel)
        yield ()
        while True:
            yield await channel.get()

    async def check(self) -> None:
        if self.backend_error is not None:
            raise self.backend_error

    # the workers

    def run_all(self) -> None:
        """Run what waits; a second message of one attempt is dropped."""
        while self.queue:
            self.run(self.queue.pop(0))

    def run(self, message: TaskMessage) -> None:
        task_id = message.identity.task_id
        if task_id in self.claimed:
            return
        self.claimed[task_id] = Claim("done")
        self.starts[task_id] += 1
        self.ran.append(f"{message.identity.step}[{message.identity.index}]#{message.identity.attempt}")
        try:
            value = self.functions[message.task](
                *(self._resolve(each) for each in message.args),
                **{name: self._resolve(each) for name, each in message.kwargs.items()},
            )
        except Exception as error:  # noqa: BLE001 - whatever a task raises is its failure
            name, text = type(error).__name__, str(error)
            self.results[task_id] = TaskResult("FAILURE", exception=name, message=text)
            self.announce(Announcement(message.identity, "FAILURE", exception=name, message=text, worker="w"))
            return
        size = len(repr(value))
        self.results[task_id] = TaskResult("SUCCESS", value=value, size=size)
        small = size <= INLINE_VALUE_BYTES
        self.announce(
            Announcement(message.identity, "SUCCESS", size=size, value=value if small else None, has_value=small)
        )

    def announce(self, announcement: Announcement) -> None:
        if self.announcing:
            for channel in self._channels:
                channel.put_nowait((announcement,))

    def _resolve(self, value: Any) -> Any:
        reference = ResultReference.from_json(value)
        if reference is not None:
            values = [None if each is None else self.results[each].value for each in reference.task_ids()]
            return values[0] if reference.stop is None else values
        if isinstance(value, list):
            return [self._resolve(each) for each in value]
        return value
