"""Series of short measurements, taken in turns so that what is compared meets the same moods of the machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def in_turns(rounds: int, actions: Mapping[str, Callable[[int], object]]) -> dict[str, list[float]]:
    """Time each action once a round, the order turned around every other round; returns milliseconds by name."""
    spent: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            began = time.perf_counter_ns()
            actions[name](number)
            spent[name].append((time.perf_counter_ns() - began) / 1e6)
    return spent


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return number, 10th, 50th and 90th percentile of a series, and the load it was measured under."""
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "p10": round(_percentile(ordered, 10), 4),
        "p50": round(statistics.median(ordered), 4),
        "p90": round(_percentile(ordered, 90), 4),
        "load_1_minute": round(os.getloadavg()[0], 2),
    }


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that so many per cent of all values do not exceed; None of no values."""
    return _percentile(sorted(values), percent) if values else None


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
