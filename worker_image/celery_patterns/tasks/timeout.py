"""Time limits: a soft one that the task can clean up after, a hard one that nothing survives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from typing_extensions import override

from celery_patterns.tasks import options
from celery_patterns.tasks.policy import Policy, PolicyError


@dataclass(frozen=True, slots=True)
class Timeout(Policy):
    """How long one try may take.

    With the prefork pool ``soft`` raises SoftTimeLimitExceeded inside the task, and ``hard`` kills its process. Other
    pools have no such means: there the task stops at ``context.heartbeat()``, which knows the same deadline.

    Raises:
        PolicyError: If an option is wrong.
    """

    soft: options.Duration | None = None
    hard: options.Duration | None = None

    name: ClassVar[str] = "timeout"
    order: ClassVar[int] = 70
    _soft: float | None = field(init=False, repr=False, compare=False, default=None)
    _hard: float | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        for option in ("soft", "hard"):
            value = getattr(self, option)
            if value is not None:
                seconds = options.duration(f"Timeout.{option}", value, low=0.1)
                object.__setattr__(self, f"_{option}", seconds)
        if self._soft is None and self._hard is None:
            raise PolicyError("Timeout: expected soft, hard or both, got neither")
        if self._soft is not None and self._hard is not None and self._soft >= self._hard:
            raise PolicyError(f"Timeout.soft: expected less than hard ({self.hard!r}), got {self.soft!r}")

    @override
    def bind(self, task: Any) -> None:
        """Give the limits to Celery, which enforces them from the main process."""
        task.soft_time_limit = self._soft
        task.time_limit = self._hard
