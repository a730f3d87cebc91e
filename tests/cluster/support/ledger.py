"""What tasks wrote down about themselves: evidence that no part under test has written or read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from celery_patterns.examples.ledger import LEDGER_KEY
from support.forward import RedisInPod


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: a task's start or its finish."""

    id: str
    key: str
    event: str
    worker: str
    at: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """The list that ``examples.ledger.record`` writes to."""

    server: RedisInPod
    database: int

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries in the order in which they were written."""
        lines = self.server.ask(self.database, lambda client: client.lrange(LEDGER_KEY, 0, -1))
        assert isinstance(lines, list)
        return tuple(_entry(json.loads(line)) for line in lines)

    def started(self) -> tuple[Entry, ...]:
        """Return the starts."""
        return tuple(entry for entry in self.entries() if entry.event == "start")

    def finished(self) -> tuple[Entry, ...]:
        """Return the finishes."""
        return tuple(entry for entry in self.entries() if entry.event == "finish")


def _entry(line: dict[str, object]) -> Entry:
    return Entry(
        id=str(line["id"]),
        key=str(line["key"]),
        event=str(line["event"]),
        worker=str(line["worker"]),
        at=float(str(line["at"])),
    )


def assert_each_once(entries: Iterable[Entry], ids: Collection[str]) -> None:
    """Assert that the ledger holds exactly one start and one finish of each of these ids, and nothing else."""
    found = Counter((entry.id, entry.event) for entry in entries)
    wanted = Counter((task_id, event) for task_id in ids for event in ("start", "finish"))
    again = {f"{task_id} {event}": count for (task_id, event), count in (found - wanted).items()}
    lost = sorted(f"{task_id} {event}" for task_id, event in wanted - found)
    assert (again, lost) == ({}, []), f"more than once, or not expected: {again}; missing: {lost}"
