"""Tasks that nobody has begun: do they wait for a worker, or are they gone with the broker's data?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from celery_operator.domain.workflows.lookups import Outstanding

UNSEEN_AFTER = timedelta(seconds=5)
"""A task that nobody has begun although its queue is empty is gone if that was so twice, this far apart: what a worker
has just taken from the queue is begun by then."""


class Unseen:
    """What was not begun while its queue was empty, and since when. Sweeps show it a slice of the tasks at a time."""

    def __init__(self) -> None:
        self._before: dict[str, datetime] = {}
        self._now: dict[str, datetime] = {}
        """Since when, as it was found in the round before, and so far in this one."""

    def begin_round(self) -> None:
        """Begin to look at all tasks anew. What the last round has not shown is begun, or has ended."""
        self._before, self._now = self._now, {}

    def keep(self, tasks: Sequence[Outstanding]) -> None:
        """Of these tasks nothing could be found out: what was known of them stays."""
        ids = [task.task_id for task in tasks]
        self._now |= {task_id: self._before[task_id] for task_id in ids if task_id in self._before}

    def gone(
        self,
        tasks: Sequence[Outstanding],
        *,
        queues: Mapping[str, str],
        waiting: Mapping[str, int],
        now: datetime,
        guarded: Collection[str],
    ) -> list[Outstanding]:
        """Return those of these tasks that neither a worker nor a queue has any more.

        Args:
            tasks: What was not begun.
            queues: By task id, where each was published.
            waiting: How many messages are in each queue.
            now: The time.
            guarded: Queues whose workers tell what they begin. What is returned of these is forgotten, as it is
                published again. Of others a worker may run it silently: it is returned once its ``lost_after`` is
                over, each time.
        """
        gone: list[Outstanding] = []
        for task in tasks:
            queue = queues[task.task_id]
            if waiting[queue]:
                continue
            since = self._before.get(task.task_id, now)
            is_gone = now - since >= (UNSEEN_AFTER if queue in guarded else timedelta(seconds=task.lost_after))
            if is_gone:
                gone.append(task)
            if not (is_gone and queue in guarded):
                self._now[task.task_id] = since
        return gone
