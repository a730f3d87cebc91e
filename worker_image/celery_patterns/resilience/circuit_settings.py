"""When a circuit opens and closes: its numbers, and how its scripts get them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

BUCKETS: Final = 10
"""The window moves on in tenths."""

NEVER: Final = 2.0
"""A rate above 1: it is never reached."""


@dataclass(frozen=True, slots=True)
class CircuitSettings:
    """When a circuit opens and closes. All who use one name should use one setting.

    Raises:
        ValueError: If a number is out of its range.
    """

    window_seconds: float = 60.0
    minimum_calls: int = 20
    """With fewer calls in the window nothing is concluded."""
    failure_rate: float = 0.5
    """Share of failed calls in the window from which the circuit opens."""
    slow_seconds: float | None = None
    """Calls that take longer are slow; None: none is."""
    slow_rate: float = 0.8
    """Share of slow calls from which the circuit opens."""
    open_seconds: float = 30.0
    trials: int = 1
    """How many trials in a row, one at a time, have to pass before the circuit closes."""
    trial_seconds: float = 60.0
    """Lease of a trial: after so long its caller counts as dead. Longer than any healthy call takes."""
    store_down: Literal["closed", "open"] = "closed"
    """What the circuit is while its state cannot be read."""

    def __post_init__(self) -> None:
        for name in ("window_seconds", "open_seconds", "trial_seconds"):
            if not 0.1 <= getattr(self, name) <= 86_400:
                raise ValueError(f"{name} must be 0.1 to 86400, got {getattr(self, name)!r}")
        for name in ("failure_rate", "slow_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)!r}")
        if self.minimum_calls < 1 or self.trials < 1:
            raise ValueError(f"minimum_calls and trials must be 1 or more, got {self.minimum_calls} and {self.trials}")
        if self.slow_seconds is not None and self.slow_seconds <= 0:
            raise ValueError(f"slow_seconds must be above 0 or None, got {self.slow_seconds!r}")
        if self.store_down not in ("closed", "open"):
            raise ValueError(f"store_down must be 'closed' or 'open', got {self.store_down!r}")

    @property
    def bucket_ms(self) -> int:
        """Width of one bucket of the window."""
        return max(1, int(self.window_seconds * 1000 / BUCKETS))

    @property
    def keep_ms(self) -> int:
        """How long the circuit is remembered when nobody asks: longer than anything it holds matters."""
        return int(1000 * (2 * self.window_seconds + self.open_seconds + 2 * self.trial_seconds)) + 60_000

    def allow_arguments(self) -> list[int]:
        """Return the arguments of ALLOW_CHUNK."""
        return [int(self.open_seconds * 1000), int(self.trial_seconds * 1000), self.keep_ms]

    def record_arguments(self, generation: int | None, *, failed: bool | None, seconds: float) -> list[Any]:
        """Return the arguments of RECORD_CHUNK; ``failed`` None: the call says nothing about the dependency."""
        slow = self.slow_seconds is not None and seconds > self.slow_seconds
        return [
            "" if generation is None else generation,
            2 if failed is None else int(failed),
            int(slow),
            self.bucket_ms,
            BUCKETS,
            self.minimum_calls,
            self.failure_rate,
            NEVER if self.slow_seconds is None else self.slow_rate,
            self.trials,
            int(self.open_seconds * 1000),
            self.keep_ms,
        ]
