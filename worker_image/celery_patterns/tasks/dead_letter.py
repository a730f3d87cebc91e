"""What has failed for good is kept: the policy by which a task says so. ``resilience.undertaker`` does the keeping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from celery_patterns.resilience import letters
from celery_patterns.tasks import joining, options
from celery_patterns.tasks.policy import Policy, PolicyError


@dataclass(frozen=True, slots=True)
class DeadLetter(Policy):
    """The task's message is kept, as it came, when there is no further try; ``celery-patterns dlq`` looks after it.

    The worker's main process does it, so it covers processes that were killed. Messages that are no tasks, unknown
    tasks and poison are kept by the same worker whatever its tasks declare.

    Raises:
        PolicyError: If ``reasons`` names no reason, or one that there is not.
    """

    reasons: tuple[str, ...] = letters.ENDS_OF_TASKS
    """For which ends: some of failed, refused, rejected, timeout, worker_lost."""

    name: ClassVar[str] = "dead_letter"
    order: ClassVar[int] = 90

    def __post_init__(self) -> None:
        reasons: Any = self.reasons
        if not isinstance(reasons, tuple) or not reasons:
            raise PolicyError(f"DeadLetter.reasons: expected a tuple such as ('failed', 'timeout'), got {reasons!r}")
        for reason in reasons:
            options.choice("DeadLetter.reasons", reason, letters.ENDS_OF_TASKS)

    @override
    def bind(self, task: Any) -> None:
        """Let workers of this process keep letters, also those of an application that ``install`` has not seen."""
        joining.install()


def declares_letters(task: Any) -> bool:
    """Whether some end of a task is to be kept, by its own declaration."""
    return bool(_declared(task))


def keeps(task: Any, reason: str, failures: str) -> bool:
    """Whether an end of a task is kept; ``failures`` is the setting ``patterns_dead_letters``."""
    return failures == "all" or (failures != "none" and any(reason in policy.reasons for policy in _declared(task)))


def _declared(task: Any) -> list[DeadLetter]:
    policies = getattr(getattr(task, "plan", None), "policies", ())
    return [policy for policy in policies if isinstance(policy, DeadLetter)]
