"""Retries as messages: the slot is free while the task waits, and the same id comes again."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, Protocol, runtime_checkable

from typing_extensions import override

from celery_patterns.resilience.classification import Rules, Throttled, Transient, Verdict, classify
from celery_patterns.tasks import options
from celery_patterns.tasks.errors import Cancelled, ResultTooLarge
from celery_patterns.tasks.policy import Again, Call, Policy, PolicyError

LONGEST_WISH = 86_400.0
"""An error's ``retry_after`` beyond a day is not believed."""

WISH_SPREAD = 0.2
"""A pause that the other side asked for is stretched by up to this share, so that not all who heard it come at once."""

RULES: Final = Rules(unknown=Transient)
"""Who declares a retry expects one, so an error that nothing recognises is tried again; ``max`` bounds it."""


@runtime_checkable
class RetryBudget(Protocol):
    """How much a fleet may retry."""

    def spend(self, call: Call, error: BaseException) -> bool:
        """Take one retry out of the budget; False if it is used up. Must not raise."""


@dataclass(frozen=True, slots=True)
class Retry(Policy):
    """A task that fails comes again, after growing pauses.

    Raises:
        PolicyError: If an option is wrong.
    """

    on: Any = None
    """Exception types that are retried, and no others. None: every error but those that would come again however often
    it is tried (``classify`` calls them permanent or poison: ValueError, TypeError, HTTP status 404, ...)."""
    never: Any = ()
    """Exception types that are not, although ``on`` or ``rules`` says so."""
    rules: Rules | None = None
    """How errors are classified that neither ``on`` nor ``never`` names; with ``on`` these are else not retried."""
    max: int = 3
    """Retries after the first try; deferrals do not count. Celery's ``max_retries`` of the task is set to it."""
    base: options.Duration = "1s"
    """Pause before the first retry; it doubles each time."""
    cap: options.Duration = "5m"
    """Longest pause."""
    jitter: Literal["full", "equal", "none"] = "full"
    """Spread of the pauses: from 0 to the whole, from half to the whole, or not at all."""
    deadline: options.Duration | None = None
    """No retry begins later than this after the first try."""
    budget: RetryBudget | None = None
    """Asked before each retry; see ``celery_patterns.resilience``."""

    name: ClassVar[str] = "retry"
    order: ClassVar[int] = 80
    _on: tuple[type[BaseException], ...] = field(init=False, repr=False, compare=False, default=())
    _asks: bool = field(init=False, repr=False, compare=False, default=True)
    _never: tuple[type[BaseException], ...] = field(init=False, repr=False, compare=False, default=())
    _base: float = field(init=False, repr=False, compare=False, default=0.0)
    _cap: float = field(init=False, repr=False, compare=False, default=0.0)
    _deadline: float | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.on is not None:
            object.__setattr__(self, "_on", options.exceptions("Retry.on", self.on))
        object.__setattr__(self, "_asks", self.on is None or self.rules is not None)
        rules: Any = self.rules
        if rules is not None and not isinstance(rules, Rules):
            raise PolicyError(f"Retry.rules: expected Rules(...) of celery_patterns.resilience, got {rules!r}")
        object.__setattr__(self, "_never", options.exceptions("Retry.never", self.never))
        object.__setattr__(self, "_base", options.duration("Retry.base", self.base))
        object.__setattr__(self, "_cap", options.duration("Retry.cap", self.cap))
        options.whole("Retry.max", self.max, high=1_000_000)
        options.choice("Retry.jitter", self.jitter, ("full", "equal", "none"))
        if self.deadline is not None:
            object.__setattr__(self, "_deadline", options.duration("Retry.deadline", self.deadline))
        budget: Any = self.budget
        if budget is not None and not isinstance(budget, RetryBudget):
            raise PolicyError(f"Retry.budget: expected something with spend(call, error), got {budget!r}")

    @override
    def bind(self, task: Any) -> None:
        """Let Celery count the losses of workers against the same limit."""
        task.max_retries = self.max
        task.default_retry_delay = self._base

    @override
    def on_failure(self, call: Call, error: BaseException) -> Again | None:
        """Come again if this error, the count, the deadline and the budget allow it."""
        if call.attempt > self.max or isinstance(error, (*self._never, Cancelled, ResultTooLarge)):
            return None
        verdict = classify(error, self.rules or RULES, now=datetime.now(UTC))
        if not isinstance(error, self._on) and not (self._asks and isinstance(verdict, (Transient, Throttled))):
            return None
        pause = self.pause(call.attempt, _wish(error, verdict))
        if self._deadline is not None:
            began = time.time() if call.first_at is None else call.first_at
            if time.time() + pause > began + self._deadline:
                return None
        if self.budget is not None and not self.budget.spend(call, error):
            return None
        return Again(pause, f"attempt {call.attempt} of {self.max + 1} failed: {type(error).__name__}")

    def pause(self, attempt: int, wish: float | None = None) -> float:
        """Return the pause after an attempt, in seconds; at least what the other side wishes."""
        whole = min(self._cap, self._base * 2 ** min(attempt - 1, 60))
        lowest = {"full": 0.0, "equal": whole / 2, "none": whole}[self.jitter]
        pause = random.uniform(lowest, whole)
        if wish is None:
            return pause
        stretch = 0.0 if self.jitter == "none" else random.uniform(0.0, WISH_SPREAD)
        return max(pause, wish * (1 + stretch))


def _wish(error: BaseException, verdict: Verdict) -> float | None:
    """Return after how many seconds the other side asks to come again, if it does and can be believed."""
    wish = verdict.retry_after if isinstance(verdict, Throttled) else getattr(error, "retry_after", None)
    return float(wish) if isinstance(wish, (int, float)) and 0 <= wish <= LONGEST_WISH else None
