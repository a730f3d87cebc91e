"""Time that stands still until it is told to pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """The port ``Clock``; begins on 2026-11-22 at noon."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 12, tzinfo=UTC) + self.passed

    def monotonic(self) -> float:
        return 1000.0 + self.passed.total_seconds()

    def advance(self, seconds: float) -> None:
        self.passed += timedelta(seconds=seconds)
