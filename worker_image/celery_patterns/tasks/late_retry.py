"""A task that is tried again says RETRY only while no later try has ended.

Celery publishes the next try's message and stores RETRY afterwards. After a short pause another slot may have run that
try by then, and RETRY would overwrite its end: whoever waits for the result would wait for ever. So what is stored is
looked at when the message is published, and again when RETRY is to be stored: an end that came in between is the later
try's and stays. No clocks are compared, and an old end (of a task that is sent again under its id) does not stay.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import dataclass
from typing import Any, Final

from celery import current_app, signals, states
from celery.backends.base import BaseKeyValueStoreBackend

logger = logging.getLogger(__name__)

MARK: Final = "celery_patterns_late_retry"
ENDS: Final = states.READY_STATES | {states.REJECTED}


@dataclass(frozen=True, slots=True)
class Seen:
    """What was stored for a task when its next try was published."""

    key: Any
    value: Any


_published = threading.local()
"""``seen``: of the retry that this thread has published last, a ``Seen`` or None."""


def install() -> None:
    """Watch the retries that this process publishes; twice is once."""
    signals.before_task_publish.connect(_publishing, weak=False, dispatch_uid="celery_patterns.late_retry")


def look(app: Any, name: str, headers: dict[str, Any]) -> None:
    """Remember what is stored for a task whose message is about to be published; costs nothing unless it is a retry.

    Backends that are no key-value stores (``rpc://``, databases) stay as Celery made them.
    """
    task = app.tasks.get(name)
    if not headers.get("retries") or task is None or not isinstance(task.backend, BaseKeyValueStoreBackend):
        return
    _published.seen = None
    if headers.get("ignore_result") and not task.store_errors_even_if_ignored:
        return
    backend = task.backend
    _guard(type(backend))
    key = backend.get_key_for_task(headers["id"])
    try:
        _published.seen = Seen(key, backend.get(key))
    except Exception as error:  # noqa: BLE001 - any backend's; without the look all is as Celery has it
        logger.warning("what is stored for %s could not be read before its retry: %s", name, type(error).__name__)


def _publishing(sender: Any = None, headers: Any = None, **_: Any) -> None:
    if isinstance(headers, dict) and headers.get("retries"):
        look(current_app, str(sender), headers)


def _guard(backend_class: type[Any]) -> None:
    if hasattr(backend_class, MARK):
        return
    store = backend_class._set_with_state  # noqa: SLF001 - the one place that knows state, key and encoded value

    def _set_with_state(self: Any, key: Any, value: Any, state: str) -> Any:
        seen: Seen | None = getattr(_published, "seen", None)
        if state != states.RETRY or seen is None or seen.key != key:
            return store(self, key, value, state)
        if _is_redis(self):
            stored = self.ensure(_set_unless_ended, (self, seen, value))
        elif stored := not _has_ended(self, seen, self.get(key)):
            store(self, key, value, state)
        _published.seen = None
        if not stored:
            logger.info("a later try has ended already, RETRY is not stored in %r", key)
        return None

    backend_class._set_with_state = _set_with_state  # noqa: SLF001
    setattr(backend_class, MARK, True)


def _has_ended(backend: Any, seen: Seen, value: Any) -> bool:
    return bool(value) and value != seen.value and backend.decode(value).get("status") in ENDS


def _is_redis(backend: Any) -> bool:
    redis = sys.modules.get("celery.backends.redis")  # imported where it is in use, and only then importable for sure
    return redis is not None and isinstance(backend, redis.RedisBackend)


def _set_unless_ended(backend: Any, seen: Seen, value: Any) -> bool:
    """Store as Celery's ``RedisBackend`` does, in the transaction that has looked: nothing comes in between."""
    from redis.exceptions import WatchError  # noqa: PLC0415 - the backend is Redis, so it is there

    while True:
        with backend.client.pipeline() as pipe:
            pipe.watch(seen.key)
            if _has_ended(backend, seen, pipe.get(seen.key)):
                return False
            pipe.multi()
            pipe.set(seen.key, value, ex=backend.expires or None)
            pipe.publish(seen.key, value)
            try:
                pipe.execute()
            except WatchError:
                continue
            return True
