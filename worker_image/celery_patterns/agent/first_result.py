"""Spares Celery the look for an earlier result where the claim has just shown that there is none.

Before it stores a result Celery reads what is stored, so that a success is not overwritten by a late failure of the
same task (``BaseKeyValueStoreBackend._store_result``). For the first start of an attempt the claim's script has looked
already, and nobody else stores anything while the claim's lease lasts. This saves as much as the claim costs. A retry
looks all the same: Celery publishes its message first, and another worker may have run it by then.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from celery import states

LOOK = "_get_task_meta_for"
"""Celery's own method, private in name; without it nothing is spared."""

_expected = threading.local()
"""Of this thread's task: ``task_id``, and ``until``, the monotonic time up to which nobody else can have stored."""


def spare_first_look(backend_class: type) -> None:
    """Let a backend's class trust ``expect_none``; harmless to repeat."""
    look: Any = getattr(backend_class, LOOK, None)
    if look is None or hasattr(look, "spared_look"):
        return

    def _get_task_meta_for(self: Any, task_id: str) -> Any:
        if _none_expected(task_id):
            return {"status": states.PENDING, "result": None}
        return look(self, task_id)

    _get_task_meta_for.spared_look = look  # type: ignore[attr-defined]
    setattr(backend_class, LOOK, _get_task_meta_for)
    store_retry: Any = backend_class.mark_as_retry  # type: ignore[attr-defined]

    def mark_as_retry(self: Any, *args: Any, **kwargs: Any) -> Any:
        expect_anything()
        return store_retry(self, *args, **kwargs)

    backend_class.mark_as_retry = mark_as_retry  # type: ignore[attr-defined]


def expect_none(task_id: str, seconds: float) -> None:
    """Nothing is stored for this task, and for so many seconds nobody but this thread will store anything.

    It holds for one look: what comes after it may find what this thread has stored itself.
    """
    _expected.task_id, _expected.until = task_id, time.monotonic() + seconds


def expect_anything() -> None:
    """Forget what was expected: another task begins, or this one is over."""
    _expected.task_id = None


def _none_expected(task_id: str) -> bool:
    if getattr(_expected, "task_id", None) != task_id:
        return False
    _expected.task_id = None
    return bool(time.monotonic() < _expected.until)
