"""Tasks that nobody has begun: do they wait for a worker, or are they gone with the broker's data?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from celery_operator.domain.workflows.lookups import Outstanding

UNSEEN_AFTER = timedelta(seconds=5)
"""A task that nobody has begun although its queue is empty is gone if that was so twice, this far apart: what a worker
has just taken from the queue is begun by then."""


class Unseen:
    """What was not begun while its queue was empty, and since when. Sweeps show it a slice of the tasks at a time."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def clear(self) -> None:
        """Nothing is missing."""
        self._since.clear()

    def gone(
        self, tasks: Sequence[Outstanding], *, queues: Mapping[str, str], waiting: Mapping[str, int], now: datetime
    ) -> list[Outstanding]:
        """Return those of these tasks that neither a worker nor a queue has any more, and forget them.

        ``tasks`` were not begun; ``queues`` says by task id where each was published, ``waiting`` how many messages are
        in each queue.
        """
        gone: list[Outstanding] = []
        for task in tasks:
            if waiting[queues[task.task_id]]:
                self._since.pop(task.task_id, None)
            elif now - self._since.setdefault(task.task_id, now) >= UNSEEN_AFTER:
                del self._since[task.task_id]
                gone.append(task)
        return gone
