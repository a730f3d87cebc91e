"""A listener listens while a run needs it and a minute longer, and is known for a day, not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from celery_operator.adapters.clock import SystemClock
from celery_operator.domain.messages import Claim, TaskResult
from celery_operator.domain.workflows.plan import Outcome
from celery_operator.services.workflows import listeners as module
from celery_operator.services.workflows.listener import SETTLED_AFTER, BackendListener, Use
from celery_operator.services.workflows.listeners import FORGET_SECONDS, LINGER_SECONDS, Leave, Listeners, decide
from celery_patterns.protocol import Announcement
from fakes.clock import FakeClock

SHORT = 0.02
NOW = 1_000_000.0


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


async def _settle() -> None:
    """Let tasks that were woken or cancelled have their turn."""
    for _ in range(5):
        await asyncio.sleep(0)


async def _until(backend: Backend, *, listening: int) -> None:
    async with asyncio.timeout(2):
        while backend.listening != listening:  # noqa: ASYNC110 - polls a count of the fake, with a deadline
            await asyncio.sleep(SHORT / 10)


def use(left_at: float, *, runs: int = 0, listening: bool = True) -> Use:
    return Use(runs, left_at, listening)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, Leave(), id="none"),
        pytest.param({"a": use(0, runs=1)}, Leave(), id="a run, whenever it came"),
        pytest.param({"a": use(NOW)}, Leave(look_in=LINGER_SECONDS), id="just left"),
        pytest.param({"a": use(NOW - 59)}, Leave(look_in=1), id="almost a minute"),
        pytest.param(
            {"a": use(NOW - 60)},
            Leave(end=frozenset("a"), look_in=FORGET_SECONDS - 60),
            id="a minute: listen no longer",
        ),
        pytest.param({"a": use(NOW - 90, listening=False)}, Leave(look_in=FORGET_SECONDS - 90), id="known for a day"),
        pytest.param({"a": use(NOW - FORGET_SECONDS, listening=False)}, Leave(forget=frozenset("a")), id="a day"),
        pytest.param(
            {
                "a": use(NOW - 60),
                "b": use(NOW - 20),
                "c": use(0, runs=2),
                "d": use(NOW - FORGET_SECONDS, listening=False),
            },
            Leave(end=frozenset("a"), forget=frozenset("d"), look_in=40),
            id="several",
        ),
    ],
)
def test_who_has_been_without_a_run_for_too_long(given: dict[str, Use], expected: Leave) -> None:
    assert decide(given, NOW) == expected


async def test_it_ends_some_time_after_the_last_run() -> None:
    backend, clock = Backend(), FakeClock()
    listeners = Listeners(clock)
    listener = listeners.of(backend)
    listener.add("one", Run())
    listener.add("two", Run())
    await _until(backend, listening=1)
    listener.remove("one")
    clock.advance(2 * LINGER_SECONDS)
    listeners.look()
    listener.remove("two")
    listeners.look()
    await _settle()
    assert backend.listening == 1
    clock.advance(LINGER_SECONDS)
    listeners.look()
    await _until(backend, listening=0)
    await listeners.close()


async def test_a_run_that_follows_soon_finds_it_listening() -> None:
    backend, clock = Backend(), FakeClock()
    listeners = Listeners(clock)
    listeners.of(backend).add("one", Run())
    await _until(backend, listening=1)
    listeners.of(backend).remove("one")
    listeners.of(backend).add("two", Run())
    clock.advance(2 * LINGER_SECONDS)
    listeners.look()
    await _settle()
    assert (backend.listening, backend.subscriptions) == (1, 1)
    await listeners.close()
    assert backend.listening == 0


async def test_a_run_that_comes_late_makes_it_listen_again_and_what_was_heard_is_known() -> None:
    backend, clock = Backend(), FakeClock()
    listeners = Listeners(clock)
    listener = listeners.of(backend)
    listener.heard_agents = True
    listener.add("one", Run())
    await _until(backend, listening=1)
    listener.remove("one")
    clock.advance(LINGER_SECONDS)
    listeners.look()
    await _until(backend, listening=0)
    late = Run()
    assert listeners.of(backend).heard_agents
    listeners.of(backend).add("two", late)
    await _until(backend, listening=1)
    await _settle()
    assert late.looks == 1
    await listeners.close()


async def test_a_connection_that_had_to_be_made_again_is_the_sign_that_the_backend_was_away() -> None:
    backend, clock = Backend(), FakeClock()
    listener = BackendListener(backend, clock)
    listener.answered()
    clock.advance(SETTLED_AFTER.total_seconds())
    settled = [listener.settled]
    listener.add("one", Run())
    await _until(backend, listening=1)
    await _settle()
    settled.append(listener.settled)
    listener.answered()
    clock.advance(SETTLED_AFTER.total_seconds())
    settled.append(listener.settled)
    await listener.close()
    assert settled == [True, False, True]


async def test_one_that_no_workflow_uses_any_more_is_forgotten() -> None:
    """Its password was rotated, say: what was opened for the old one can be closed, and is held by nobody."""
    backend, clock = Backend(), FakeClock()
    listeners = Listeners(clock)
    listener = listeners.of(backend)
    listener.add("one", Run())
    listener.remove("one")
    clock.advance(FORGET_SECONDS)
    listeners.look()
    assert listeners.of(backend) is not listener
    await _until(backend, listening=0)
    await listeners.close()


async def test_it_looks_by_itself_when_something_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS", SHORT)
    backend = Backend()
    listeners = Listeners(SystemClock())
    listeners.of(backend).add("one", Run())
    await _until(backend, listening=1)
    listeners.of(backend).remove("one")
    await _until(backend, listening=0)
    await listeners.close()
