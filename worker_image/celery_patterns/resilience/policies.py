"""The policy by which a task says what becomes of it when its process is killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from celery_patterns.tasks import options
from celery_patterns.tasks.policy import Policy


@dataclass(frozen=True)
class WorkerLost(Policy):
    """What happens to a task whose process is killed (by the kernel, by a crash in native code).

    Args:
        action: ``retry``: it comes again after ``delay``, at the cost of one of its retries, so that a task that kills
            its process ends after ``max_retries + 1`` tries. ``fail``: it has failed. ``requeue``: the message goes
            back at once, for as long as the poison guard lets it.
        delay: Before it comes again.
    """

    name: ClassVar[str] = "worker_lost"
    order: ClassVar[int] = 88

    action: str = "retry"
    delay: options.Duration = "5s"

    def __post_init__(self) -> None:
        options.choice("WorkerLost.action", self.action, ("retry", "fail", "requeue"))
        options.duration("WorkerLost.delay", self.delay)

    def bind(self, task: Any) -> None:  # type: ignore[explicit-override]
        """Set Celery's own options of the task."""
        task.retry_on_worker_lost = self.action == "retry"
        task.reject_on_worker_lost = self.action == "requeue"
        if self.action == "retry":
            task.default_retry_delay = options.duration("WorkerLost.delay", self.delay)
        if self.action != "fail":
            # Otherwise the message was acknowledged when the task began, and nothing is left to go back.
            task.acks_late = True
