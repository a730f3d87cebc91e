"""Progress that could not be written is not forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celery_patterns.store import StoreUnavailable
from celery_patterns.tasks.context import TaskContext


def test_progress_that_was_held_back_is_written_at_the_next_flush() -> None:
    written: list[tuple[Any, ...]] = []

    def report(*progress: Any) -> bool:
        if not away:
            written.append(progress)
            return True
        raise StoreUnavailable(away.pop())

    away = ["the store is away"]
    context: Any = TaskContext.__new__(TaskContext)
    context._unreported = (3, 4, "nearly")
    context._state_of = lambda _: SimpleNamespace(report=report)
    with pytest.raises(StoreUnavailable):
        context.flush()
    context.flush()
    context.flush()
    assert written == [(3, 4, "nearly")]
