"""Where an item of a batch is: its message has been acknowledged, so nothing but the store knows of it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from celery_patterns.store import Store

AT_ONCE = 500
"""Keys read by one command."""


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """What the store knows of an item."""

    batch: str
    """``<task>:<batch key>``, shortened if it is long."""
    task: str | None
    """The batch's task."""
    waiting: int
    """Items of this batch that wait, this one included if it does."""
    taken_by: str | None
    """The flush that works it off, by its task id; None: it waits."""
    tries: int
    """Batches that have had it, and did not end it."""
    flush_due: bool
    """Whether a flush was asked for that can still come."""

    @property
    def sentence(self) -> str:
        """It for people."""
        tried = f", after {self.tries} tries" if self.tries else ""
        if self.taken_by is not None:
            return f"the flush {self.taken_by} works it off, in a batch of {self.batch}"
        asked = "a flush was asked for" if self.flush_due else "the flush that was asked for is late"
        return f"it waits in the batch {self.batch} with {self.waiting - 1} others{tried}: {asked}"


def find_item(store: Store, task_id: str) -> BatchPlace | None:
    """Return the place of an item; None if no batch has it.

    Raises:
        StoreUnavailable: If the store does not answer.
    """
    return store.call(_find, store, task_id)  # type: ignore[no-any-return]


def _find(store: Store, task_id: str) -> BatchPlace | None:
    client, begin = store.client, store.key("batch-items", "")
    for raw in client.scan_iter(match=store.pattern("batch-items"), count=AT_ONCE):
        item = client.hget(raw, task_id)
        if item is None:
            continue
        batch = raw.decode().removeprefix(begin)
        waiting, taken, state = (store.key(f"batch-{kind}", batch) for kind in ("waiting", "taken", "state"))
        holder = client.hget(taken, task_id)
        tries, *promises = client.hmget(state, f"tries:{task_id}", "promised", "urgent")
        seconds, _ = client.time()
        return BatchPlace(
            batch=batch,
            task=json.loads(item)["request"].get("task"),
            waiting=int(client.zcard(waiting)),
            taken_by=None if holder is None else holder.decode().rpartition("|")[0],
            tries=int(tries or 0),
            flush_due=any(int(promise or 0) > seconds * 1000 for promise in promises),
        )
    return None
