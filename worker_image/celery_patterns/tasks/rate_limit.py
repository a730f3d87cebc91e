"""Rate limits for a whole fleet, by the store's clock: workers whose clocks differ share one limit all the same.

The generic cell rate algorithm: a limit is one number in the store, the moment up to which the rate is used up. In any
window there are never more than ``rate`` times window + ``burst`` runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from typing_extensions import override

from celery_patterns.store import names
from celery_patterns.tasks import keys, options
from celery_patterns.tasks.errors import RateExceeded
from celery_patterns.tasks.policy import Admit, Call, Decision, Defer, Drop, Fragment, Policy, PolicyError, Refuse, Step

_RATE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*/\s*(\d{1,15})?\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

LONGEST_SECONDS = 366 * 86_400.0
"""Of an interval, or of all that may be used ahead: beyond it microseconds grow inexact, or Redis refuses them."""

SHORTEST_SECONDS = 1e-6
"""Of an interval: the store's clock counts microseconds, and a rate beyond it would limit nothing."""

WAIT_IN_PLACE_MS = 250
"""A turn that comes this soon is waited for in the slot: sending the message away costs more. The turn is reserved."""

FRAGMENT = Fragment(
    name="rate",
    admit="""
local interval, tolerance, patience = tonumber(A[1]), tonumber(A[2]), tonumber(A[3])
local due = math.max(tonumber(redis.call('GET', K[1]) or '0'), now_us)
local wait = due - tolerance - now_us
if wait > patience then return {1, num(math.ceil(wait))} end
redis.call('SET', K[1], num(due + interval), 'PX', num(math.ceil((due + interval - now_us) / 1000) + 1000))
return {0, num(math.max(0, math.ceil(wait)))}
""",
    undo="""
local due = tonumber(redis.call('GET', K[1]) or '0') - tonumber(A[1])
if due > now_us then
  redis.call('SET', K[1], num(due), 'PX', num(math.ceil((due - now_us) / 1000) + 1000))
else
  redis.call('DEL', K[1])
end
""",
)
"""K: the limit. A: us between two runs, us that may be used ahead (burst), us to wait in place at most.
Returns {0, us to wait in place} or {1, us until there is a turn}."""


@dataclass(frozen=True, slots=True)
class RateLimit(Policy):
    """So many runs in a time, over all workers.

    Raises:
        PolicyError: If an option is wrong.
    """

    rate: str
    """``"100/s"``, ``"10/m"``, ``"5/10s"``, ``"1000/h"``."""
    key: str | None = None
    """Template over the arguments, such as ``"api:{tenant}"``: tasks with one key share one limit. None: the task."""
    burst: int = 1
    """How many may run at once after a pause. 1: they are spaced evenly."""
    on_limit: Literal["defer", "drop", "raise"] = "defer"
    """A run over the limit comes again when there is a turn, ends as REVOKED, or fails with RateExceeded."""
    max_defer: options.Duration | None = None
    """How long one may be deferred before it fails; None: for ever."""
    if_store_down: Literal["open", "closed"] = "open"
    """Whether tasks run while the limit cannot be read."""

    name: ClassVar[str] = "rate"
    order: ClassVar[int] = 60
    needs_store: ClassVar[bool] = True
    _interval_us: float = field(init=False, repr=False, compare=False, default=0.0)
    _max_defer: float | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        rate: Any = self.rate
        match = _RATE.fullmatch(rate.strip()) if isinstance(rate, str) else None
        if match is None or float(match[1]) <= 0 or match[2] == "0":
            raise PolicyError(f"RateLimit.rate: expected a text such as '100/s', '10/m', '5/10s', got {rate!r}")
        interval = int(match[2] or 1) * _SECONDS[match[3]] / float(match[1])
        object.__setattr__(self, "_interval_us", interval * 1e6)
        options.whole("RateLimit.burst", self.burst, low=1)
        if interval * self.burst > LONGEST_SECONDS:
            raise PolicyError(
                f"RateLimit.rate: {rate!r} with a burst of {self.burst} reaches over more than a year, "
                "which is more than the store's clock can be asked for"
            )
        if interval < SHORTEST_SECONDS:
            raise PolicyError(f"RateLimit.rate: {rate!r} is more than a million in a second, which limits nothing")
        options.choice("RateLimit.on_limit", self.on_limit, ("defer", "drop", "raise"))
        options.choice("RateLimit.if_store_down", self.if_store_down, ("open", "closed"))
        if self.max_defer is not None:
            object.__setattr__(self, "_max_defer", options.duration("RateLimit.max_defer", self.max_defer))

    @override
    def bind(self, task: Any) -> None:
        """Check the key against the task's parameters."""
        keys.check_template("RateLimit.key", self.key, task)

    def store_key(self, call: Call) -> str:
        """Return the key of the limit."""
        name = names.quote(call.name) if self.key is None else keys.render(self.key, call.arguments)
        return str(call.task.patterns.key("rate", name))

    @override
    def admission(self, call: Call) -> Step:
        """Take a turn."""
        patience = WAIT_IN_PLACE_MS * 1000 if self.on_limit == "defer" else 0
        arguments = (f"{self._interval_us:.3f}", f"{self._interval_us * (self.burst - 1):.3f}", patience)
        return Step(FRAGMENT, (self.store_key(call),), arguments)

    @override
    def admitted(self, call: Call, reply: list[Any]) -> Decision:
        """Run, now or in a moment; or do what the policy says of runs over the limit."""
        seconds = int(reply[1]) / 1e6
        if reply[0] == 0:
            return Admit(wait=seconds)
        reason = f"the rate limit {self.rate} is used up for {seconds:.2f} s"
        if self.on_limit == "drop":
            return Drop(reason)
        if self.on_limit == "raise":
            return Refuse(RateExceeded(f"{call.name}: {reason}"))
        return Defer(seconds, reason, give_up_after=self._max_defer)

    @override
    def store_down(self, call: Call, error: Exception) -> Decision:
        """Run if the limit is open without the store, else come again."""
        return Admit() if self.if_store_down == "open" else Policy.store_down(self, call, error)
