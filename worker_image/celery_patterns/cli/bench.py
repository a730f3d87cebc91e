"""``celery-patterns bench``: what the patterns' questions cost on this store, from here."""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Callable
from typing import Any

from celery_patterns.cli.application import add_arguments, application
from celery_patterns.cli.exits import Exit
from celery_patterns.cli.tables import say, say_json, table
from celery_patterns.resilience.budget import Budget, RetryBudget
from celery_patterns.resilience.bulkhead import Bulkhead
from celery_patterns.resilience.circuit import CircuitBreaker
from celery_patterns.tasks.patterns import patterns_of


def add_commands(commands: Any) -> None:
    """Add ``bench``."""
    parser = commands.add_parser("bench", help="time the store's answers, from here")
    parser.add_argument("--number", type=int, default=500, help="measurements of each (default 500)")
    parser.set_defaults(run=run)
    add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, and show medians and 99th percentiles in milliseconds."""
    number = max(10, options.number)
    with application(options) as app:
        store = patterns_of(app).store
        name = f"bench-{uuid.uuid4().hex[:8]}"
        circuit = CircuitBreaker(store, name)
        bulkhead = Bulkhead(store, name, 1)
        budget = RetryBudget(store, name, Budget())
        measured = {
            "PING": _measure(lambda: store.call(store.client.ping), number),
            "circuit: allow and record": _measure(lambda: circuit.record(circuit.allow()), number),
            "bulkhead: enter and leave": _measure(lambda: bulkhead.leave(bulkhead.enter()), number),
            "retry budget: one question": _measure(budget.count_first, number),
        }
        store.call(store.client.delete, circuit.key, bulkhead.key, budget.key)
    if options.json:
        say_json({what: {"p50_ms": p50, "p99_ms": p99} for what, (p50, p99) in measured.items()})
    else:
        rows = [(what, f"{p50:.2f}", f"{p99:.2f}") for what, (p50, p99) in measured.items()]
        say(table(("WHAT", "P50 MS", "P99 MS"), rows))
    return Exit.WELL


def _measure(action: Callable[[], Any], number: int) -> tuple[float, float]:
    action()
    times = []
    for _ in range(number):
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return round(times[number // 2], 3), round(times[min(number - 1, number * 99 // 100)], 3)
