"""Memory goes back after a burst, and never while a workflow runs."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from celery_operator.adapters.garbage import calm_garbage_collector, give_back_when_quiet


class Node:
    """Part of a cycle."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def calm() -> Iterator[None]:
    before = gc.get_threshold()
    calm_garbage_collector()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


async def until_gone(ref: weakref.ref[Node], turns: int) -> bool:
    for _ in range(turns):
        await asyncio.sleep(0.002)
        if ref() is None:
            return True
    return False


def burst() -> weakref.ref[Node]:
    """Make many objects and leave one cycle that has outlived some looks at the young ones."""
    node = Node()
    ref = weakref.ref(node)
    for _ in range(5):
        gc.collect(0)
    return ref


@pytest.mark.usefixtures("calm")
async def test_what_a_burst_left_is_collected_once_nothing_runs() -> None:
    active = 1
    task = asyncio.create_task(give_back_when_quiet(lambda: active, every=0.001))
    ref = burst()
    assert not await until_gone(ref, turns=20), "collected while a workflow ran"
    active = 0
    assert await until_gone(ref, turns=2000)
    task.cancel()
