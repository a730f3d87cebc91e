"""A listener listens while a run needs it, and not for ever after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime

import pytest

from celery_operator.domain.messages import Claim, TaskResult
from celery_operator.domain.workflows.plan import Outcome
from celery_operator.services.workflows import listener as module
from celery_operator.services.workflows.listener import BackendListener
from celery_patterns.protocol import Announcement

SHORT = 0.02


class Clock:
    def now(self) -> datetime:
        return datetime(2026, 1, 2, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


class Backend:
    """Counts who listens."""

    def __init__(self) -> None:
        self.listening = 0
        self.subscriptions = 0

    async def announcements(self) -> AsyncIterator[tuple[Announcement, ...]]:
        self.listening += 1
        self.subscriptions += 1
        try:
            yield ()
            await asyncio.Event().wait()
        finally:
            self.listening -= 1

    async def read(self, _: Sequence[str]) -> Mapping[str, TaskResult]:
        return {}

    async def claims(self, _: Sequence[str]) -> Mapping[str, Claim]:
        return {}

    async def abandon(self, _: Sequence[str]) -> frozenset[str]:
        return frozenset()

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        return None


class Run:
    run_number = 1

    def __init__(self) -> None:
        self.looks = 0

    def hear(self, outcomes: list[Outcome]) -> None:
        raise AssertionError(f"nothing was announced: {outcomes}")

    def look_again(self) -> None:
        self.looks += 1


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setattr(module, "LINGER_SECONDS", SHORT)
    return Backend()


async def _until(backend: Backend, *, listening: int) -> None:
    async with asyncio.timeout(2):
        while backend.listening != listening:  # noqa: ASYNC110 - polls a count of the fake, with a deadline
            await asyncio.sleep(SHORT / 10)


async def test_it_ends_some_time_after_the_last_run(backend: Backend) -> None:
    listener = BackendListener(backend, Clock())
    listener.add("one", Run())
    listener.add("two", Run())
    await _until(backend, listening=1)
    listener.remove("one")
    await asyncio.sleep(SHORT * 3)
    assert backend.listening == 1
    listener.remove("two")
    assert backend.listening == 1
    await _until(backend, listening=0)
    await listener.close()


async def test_a_run_that_follows_soon_finds_it_listening(backend: Backend) -> None:
    listener = BackendListener(backend, Clock())
    listener.add("one", Run())
    await _until(backend, listening=1)
    listener.remove("one")
    listener.add("two", Run())
    await asyncio.sleep(SHORT * 3)
    assert (backend.listening, backend.subscriptions) == (1, 1)
    await listener.close()
    assert backend.listening == 0


async def test_a_run_that_comes_late_makes_it_listen_again(backend: Backend) -> None:
    listener = BackendListener(backend, Clock())
    listener.add("one", Run())
    await _until(backend, listening=1)
    listener.remove("one")
    await _until(backend, listening=0)
    late = Run()
    listener.add("two", late)
    await _until(backend, listening=1)
    await asyncio.sleep(0)
    assert late.looks == 1
    await listener.close()
