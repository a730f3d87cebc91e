"""How long to wait before the next try, and whether there is one. Pure: the random number comes from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from celery_patterns.resilience.classification import Permanent, Poison, Throttled, Transient, Verdict

Jitter: TypeAlias = Literal["full", "equal", "none"]


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Another try, after so many seconds."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No other try."""

    reason: str


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential waiting with jitter.

    Raises:
        ValueError: If a number is out of its range.
    """

    first_seconds: float = 1.0
    """Longest wait before the first retry; doubled for each further one."""
    cap_seconds: float = 300.0
    """No wait is longer, but for one that the other side asked for itself."""
    max_retries: int = 5
    jitter: Jitter = "full"
    """``full``: anything from 0 to the wait; ``equal``: from half of it; ``none``: exactly it."""
    throttle_spread: float = 0.2
    """A wait that the other side asked for is stretched by up to this share, so that not all return at once."""

    def __post_init__(self) -> None:
        if self.first_seconds < 0 or self.cap_seconds < self.first_seconds:
            raise ValueError(
                f"expected 0 <= first_seconds <= cap_seconds, got {self.first_seconds:g} and {self.cap_seconds:g}"
            )
        if self.max_retries < 0:
            raise ValueError(f"max_retries must be 0 or more, got {self.max_retries}")
        if self.jitter not in ("full", "equal", "none"):
            raise ValueError(f"jitter must be 'full', 'equal' or 'none', got {self.jitter!r}")

    def decide(self, verdict: Verdict, retries: int, random: float) -> TryAgain | GiveUp:
        """Decide about one failure.

        Args:
            verdict: What kind of failure it was.
            retries: How often it has been tried again before; 0 after the first try.
            random: From [0, 1).
        """
        match verdict:
            case Permanent() | Poison():
                return GiveUp(verdict.reason)
            case Transient() | Throttled():
                if retries >= self.max_retries:
                    return GiveUp(f"tried {retries + 1} times: {verdict.reason}")
        if isinstance(verdict, Throttled) and verdict.retry_after is not None:
            return TryAgain(verdict.retry_after * (1 + self.throttle_spread * random), verdict.reason)
        return TryAgain(self.wait(retries, random), verdict.reason)

    def wait(self, retries: int, random: float) -> float:
        """Return the seconds to wait after ``retries`` retries, for a random number from [0, 1)."""
        # The exponent is bounded: 2 ** 2000 is no float, and the cap was reached long before.
        longest = min(self.cap_seconds, self.first_seconds * 2.0 ** min(retries, 64))
        match self.jitter:
            case "full":
                return longest * random
            case "equal":
                return longest * (1 + random) / 2
            case "none":
                return longest
