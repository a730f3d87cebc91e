"""What a worker holds is counted exactly, or not at all: unknown is never zero."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from celery_patterns.agent import counts
from celery_patterns.agent.drain import Drain
from celery_patterns.agent.worker_agent import WorkerAgent


class Request:
    """What is looked at of a request."""

    eta = None
    time_start = None


class Restless:
    """A set that another thread changes whenever somebody looks through it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        self.looks -= 1
        if self.looks >= 0:
            raise RuntimeError("Set changed size during iteration")
        return iter([Request()])


def test_a_set_that_comes_to_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "active_requests", Restless(counts.TRIES - 1))
    assert counts.held_total(None) == 1


def test_a_set_that_never_comes_to_rest_is_not_counted_as_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "active_requests", Restless(10_000))
    with pytest.raises(counts.StillChanging):
        counts.held_total(None)


def test_a_worker_whose_tasks_cannot_be_counted_is_not_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    agent: Any = SimpleNamespace(_consumer=None)
    drain = Drain(lambda: WorkerAgent._holds_something(agent))
    drain.ask(draining=True)
    drain.observe()
    assert drain._quiet_since is not None
    monkeypatch.setattr(state, "active_requests", Restless(10_000))
    drain.observe()
    assert drain._quiet_since is None
