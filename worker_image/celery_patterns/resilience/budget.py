"""A budget of retries for a whole fleet: a dependency that is down is not asked ten times as often as one that is up.

In any window the fleet retries at most ``ratio`` times its first tries plus ``minimum``. First tries and retries are
counted in a ring of buckets in one Redis hash, by the server's clock; a retry that is over the budget is refused, and
told when the budget may have room again.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from celery_patterns.resilience.chunks import standalone
from celery_patterns.store import Store, StoreError
from celery_patterns.tasks import options
from celery_patterns.tasks.patterns import patterns_of
from celery_patterns.tasks.policy import Call, Fragment, Outcome, Policy, PolicyError, Step

logger = logging.getLogger(__name__)

BUCKETS: Final = 10
"""The window moves on in tenths: the oldest tenth of what it counts leaves at once."""

CHUNK: Final = """
local width, buckets = tonumber(A[2]), tonumber(A[3])
local epoch = math.floor(now / width)
local fields = redis.call('HGETALL', K[1])
local firsts, retries, own_firsts, own_retries, oldest = 0, 0, 0, 0, epoch
for i = 1, #fields, 2 do
  local at, first, again = string.match(fields[i + 1], '^(%d+),(%d+),(%d+)$')
  at = tonumber(at)
  if at == nil or at <= epoch - buckets or at > epoch then
    redis.call('HDEL', K[1], fields[i])
  else
    firsts, retries = firsts + first, retries + again
    if tonumber(again) > 0 and at < oldest then oldest = at end
    if at == epoch then own_firsts, own_retries = tonumber(first), tonumber(again) end
  end
end
local allowed, wait = 1, 0
if A[1] == 'first' then
  firsts, own_firsts = firsts + 1, own_firsts + 1
elseif A[1] == 'retry' then
  if retries + 1 <= math.floor(firsts * tonumber(A[4]) + 1e-9) + tonumber(A[5]) then
    retries, own_retries = retries + 1, own_retries + 1
  else
    allowed, wait = 0, (oldest + buckets) * width - now
  end
end
if A[1] ~= 'look' and allowed == 1 then
  redis.call('HSET', K[1], tostring(epoch % buckets),
             num(epoch) .. ',' .. num(own_firsts) .. ',' .. num(own_retries))
  redis.call('PEXPIRE', K[1], width * (buckets + 1))
end
return {allowed, firsts, retries, wait}
"""
"""K: the budget. A: first | retry | look, bucket (ms), buckets, ratio, minimum.
Returns {allowed, first tries, retries, ms until the oldest counted retry leaves the window}."""


SCRIPT: Final = standalone(CHUNK, "budget")

FRAGMENT: Final = Fragment("budget", admit="return {0}", settle=CHUNK)
"""A first try is counted when it has run: one that a policy sent away has asked nobody."""


@dataclass(frozen=True, slots=True)
class BudgetAnswer:
    """What the budget says, with the counts of its window."""

    allowed: bool
    firsts: int
    retries: int
    retry_after: float
    """Seconds until some room may be free; 0 if allowed."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a fleet may retry: ``ratio`` of its first tries, plus ``minimum``, in each ``window_seconds``.

    Raises:
        ValueError: If a number is out of its range.
    """

    ratio: float = 0.1
    window_seconds: float = 60.0
    minimum: int = 10
    """Always granted in a window: a fleet that has just begun, or has few tasks, may retry too."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 10:
            raise ValueError(f"ratio must be 0 to 10 (0.1 is 10 %), got {self.ratio:g}")
        if self.window_seconds < 1:
            raise ValueError(f"window_seconds must be at least 1, got {self.window_seconds:g}")
        if self.minimum < 0:
            raise ValueError(f"minimum must be 0 or more, got {self.minimum}")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``"10%/1m"`` or, with another minimum than 10, ``"10%/1m+3"``.

        Raises:
            ValueError: If it is not of this form.
        """
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*/\s*([^+\s]+)\s*(?:\+\s*(\d+))?\s*", text)
        if found is None:
            raise ValueError(f"expected a retry budget like '10%/1m' or '10%/1m+3', got {text!r}")
        minimum = int(found[3]) if found[3] is not None else 10
        return cls(ratio=float(found[1]) / 100, window_seconds=options.duration("window", found[2]), minimum=minimum)

    def arguments(self, question: str) -> list[Any]:
        """Return the script's arguments for ``first``, ``retry`` or ``look``."""
        width = max(1, int(self.window_seconds * 1000 / BUCKETS))
        return [question, width, BUCKETS, self.ratio, self.minimum]


class RetryBudget:
    """One budget, shared by all who use its name.

    Args:
        store: The state store.
        name: Usually that of the dependency, or of the task.
        budget: How much may be retried.

    Every method may raise ``StoreUnavailable``.
    """

    def __init__(self, store: Store, name: str, budget: Budget) -> None:
        self.name = name
        self.budget = budget
        self.key = store.key("budget", name)
        self._store = store

    def count_first(self) -> BudgetAnswer:
        """Count a first try: it is always allowed."""
        return self._ask("first")

    def ask_retry(self) -> BudgetAnswer:
        """Ask for one retry, which is counted if it is allowed."""
        return self._ask("retry")

    def look(self) -> BudgetAnswer:
        """Return the counts; nothing is counted."""
        return self._ask("look")

    def _ask(self, question: str) -> BudgetAnswer:
        return read_answer(self._store.run(SCRIPT, [self.key], ["", *self.budget.arguments(question)]))


def read_answer(answer: Any) -> BudgetAnswer:
    """Read what SCRIPT returned."""
    allowed, firsts, retries, wait = (int(number) for number in answer)
    return BudgetAnswer(allowed == 1, firsts, retries, max(0.0, wait / 1000))


@dataclass(frozen=True)
class FleetBudget(Policy):
    """A task's retry budget: the same object is its policy, which counts first tries, and its ``Retry``'s budget.

    Tasks that use one name share one budget. Counting costs no round trip of its own; asking for a retry costs one.
    While the store does not answer, retries are allowed: the backoff still bounds them.

    Raises:
        PolicyError: If an option is wrong.
    """

    name: ClassVar[str] = "budget"
    order: ClassVar[int] = 79
    needs_store: ClassVar[bool] = True

    dependency: str
    """Name of the budget, usually of what is asked."""
    budget: str | Budget = "10%/1m"
    """``"10%/1m"``, ``"10%/1m+3"``, or a Budget."""

    def __post_init__(self) -> None:
        options.text("FleetBudget.dependency", self.dependency)
        try:
            parsed = self.budget if isinstance(self.budget, Budget) else Budget.parse(str(self.budget))
        except ValueError as error:
            raise PolicyError(f"FleetBudget.budget: {error}") from None
        object.__setattr__(self, "budget", parsed)

    def admission(self, call: Call) -> Step:  # type: ignore[explicit-override]
        """Take part in the run, so that it is counted at its end."""
        return Step(FRAGMENT, (self._key(call),))

    def settlement(self, call: Call, outcome: Outcome, result: Any, seconds: float) -> Step | None:  # type: ignore[explicit-override]
        """Count a first try that ran."""
        del result, seconds
        ran = outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.RETRY)
        question = "first" if ran and call.attempt == 1 else "look"
        return Step(FRAGMENT, (self._key(call),), tuple(self._parsed.arguments(question)))

    def spend(self, call: Call, error: BaseException) -> bool:
        """Take one retry out of the budget; False if it is used up."""
        try:
            answer = RetryBudget(patterns_of(call.task.app).store, self.dependency, self._parsed).ask_retry()
        except StoreError as unavailable:
            logger.warning("%s[%s] is retried outside of its budget: %s", call.name, call.id, unavailable)
            return True
        if not answer.allowed:
            logger.warning(
                "%s[%s] is not retried after %s: the budget of %r is used up (%d retries of %d first tries)",
                call.name,
                call.id,
                type(error).__name__,
                self.dependency,
                answer.retries,
                answer.firsts,
            )
        return answer.allowed

    @property
    def _parsed(self) -> Budget:
        return self.budget if isinstance(self.budget, Budget) else Budget.parse(self.budget)

    def _key(self, call: Call) -> str:
        return patterns_of(call.task.app).key("budget", self.dependency)
