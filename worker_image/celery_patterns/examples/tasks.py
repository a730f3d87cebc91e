"""Small tasks with clear results, and the ways a task can fail."""

from __future__ import annotations

import time
from typing import Any

from celery_patterns.examples.app import app


@app.task(name="examples.add")  # type: ignore[untyped-decorator]
def add(x: float, y: float) -> float:
    """Return the sum of two numbers."""
    return x + y


@app.task(name="examples.multiply")  # type: ignore[untyped-decorator]
def multiply(x: float, y: float) -> float:
    """Return the product of two numbers."""
    return x * y


@app.task(name="examples.total")  # type: ignore[untyped-decorator]
def total(numbers: list[float | None]) -> float:
    """Return the sum of a list; ``None``, which stands for an item that was allowed to fail, counts nothing."""
    return sum(number for number in numbers if number is not None)


@app.task(name="examples.sleep")  # type: ignore[untyped-decorator]
def sleep(seconds: float) -> float:
    """Wait, and return for how long."""
    time.sleep(seconds)
    return seconds


@app.task(name="examples.fail")  # type: ignore[untyped-decorator]
def fail(message: str) -> None:
    """Fail with a message."""
    raise RuntimeError(message)


@app.task(name="examples.not_json")  # type: ignore[untyped-decorator]
def not_json() -> Any:
    """Return something that JSON cannot hold."""
    return object()
