"""The one place that reads the clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The machine's clock, as the port ``Clock``."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since boot, suspension included: a machine that slept notices what it missed."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
