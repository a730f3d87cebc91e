"""The hash of one task in the store: how far it is, what it saved, whether it was asked to stop.

Fields: ``token``, ``until``, ``worker``, ``deliveries`` (see ``celery_patterns.store.leases``); ``done``,
``total``, ``note``, ``at`` (progress); ``checkpoint``; ``cancel``; ``seen`` (there is progress to show after the end);
``outcome`` (after the end).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery_patterns.store import Script, Store
from celery_patterns.store.leases import KEEP_MS
from celery_patterns.store.script import CLOCK

_MINE = """
local record = redis.call('HMGET', KEYS[1], 'token', 'outcome')
if record[2] or (record[1] and record[1] ~= ARGV[1]) then return 0 end
"""

_PROGRESS = Script(
    CLOCK
    + _MINE
    + """
local before = redis.call('HGET', KEYS[1], 'done')
if before and tonumber(before) > tonumber(ARGV[2]) then return 2 end
redis.call('HSET', KEYS[1], 'done', ARGV[2], 'total', ARGV[3], 'note', ARGV[4], 'at', num(now), 'seen', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
""",
    "progress",
)
"""ARGV: token, done, total ('' if unknown), note, keep (ms). Returns 0 another execution's or over,
1 written, 2 behind."""

_CHECKPOINT = Script(
    _MINE
    + """
redis.call('HSET', KEYS[1], 'checkpoint', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""",
    "checkpoint",
)

_CANCEL = Script(
    """
redis.call('HSET', KEYS[1], 'cancel', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
""",
    "cancel",
)


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How far a task is."""

    done: float
    total: float | None
    """None: unknown."""
    note: str
    at: datetime
    """When it was reported, by the store's clock."""
    outcome: str | None = None
    """``success``, ``failure`` or ``ended`` once the task has ended."""

    @property
    def fraction(self) -> float | None:
        """Return done / total, 0 to 1; None if the total is unknown."""
        return min(1.0, self.done / self.total) if self.total else None


class TaskState:
    """The hash of one task, as its execution writes it.

    Args:
        store: The store.
        task_id: Whose it is.
        token: Of the execution; only the one that holds the task writes.
    """

    def __init__(self, store: Store, task_id: str, token: str) -> None:
        self._store = store
        self._key = store.key("task", task_id)
        self._token = token

    def report(self, done: float, total: float | None, note: str) -> bool:
        """Write progress; returns False if another execution has taken over, or the task has ended."""
        arguments: list[str | int] = [self._token, repr(done), "" if total is None else repr(total), note, KEEP_MS]
        return bool(self._store.run(_PROGRESS, [self._key], arguments))

    def save(self, checkpoint: bytes) -> bool:
        """Keep what the next execution gets; returns False if another one has taken over, or the task has ended."""
        return bool(self._store.run(_CHECKPOINT, [self._key], [self._token, checkpoint, KEEP_MS]))

    def look(self) -> tuple[bool, bool]:
        """Return whether the task was asked to stop, and whether another execution has taken over."""
        token, cancel = self._store.call(self._store.client.hmget, self._key, "token", "cancel")
        return cancel is not None, token is not None and token.decode() != self._token


def ask_to_stop(store: Store, task_id: str) -> None:
    """Ask a task to stop at its next heartbeat, whether it runs or waits.

    Raises:
        StoreUnavailable: If the store does not answer.
    """
    store.run(_CANCEL, [store.key("task", task_id)], [KEEP_MS])


def read_report(store: Store, task_id: str) -> ProgressReport | None:
    """Return a task's progress; None if it has reported none, or that is over for a day.

    Raises:
        StoreUnavailable: If the store does not answer.
    """
    names = ("done", "total", "note", "at", "outcome")
    raw: list[Any] = store.call(store.client.hmget, store.key("task", task_id), *names)
    done, total, note, at, outcome = (None if value is None else value.decode() for value in raw)
    if done is None:
        return None
    return ProgressReport(
        done=float(done),
        total=float(total) if total else None,
        note=note or "",
        at=datetime.fromtimestamp(int(at or 0) / 1000, UTC),
        outcome=outcome,
    )
