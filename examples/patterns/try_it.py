"""Calls the shop's tasks and prints what it sees."""

# ruff: noqa: INP001 - a program beside its application, no package

from __future__ import annotations

import time

from shop import app, charge, import_catalogue, refund, stock_report, track

from celery_patterns.resilience.places import letters_of
from celery_patterns.tasks import explain, read_progress


def wait_for_letter(task_id: str) -> tuple[str, str, int] | None:
    """Return what is kept of a task that failed; the worker keeps it a moment after the result is stored."""
    for _ in range(200):
        for letter in letters_of(app).scan("celery"):
            if letter.message.task_id == task_id:
                return letter.reason, letter.error, letter.attempts
        time.sleep(0.05)
    return None


def main() -> None:
    """Call each task."""
    answers = [charge.delay("A-17", 1200) for _ in range(5)]
    print("five calls, one charge:", {str(answer.get(timeout=30)) for answer in answers})  # noqa: T201

    first, second = stock_report.delay("B2"), stock_report.delay("B2")
    print("one report for two:", first.id == second.id, second.get(timeout=30))  # noqa: T201

    running = import_catalogue.delay(100)
    print("the second try began at row", running.get(timeout=30))  # noqa: T201
    print("progress:", read_progress(running.id, app))  # noqa: T201

    views = [track.delay(page=number) for number in range(20)]
    print("views:", [view.get(timeout=30) for view in views][:3])  # noqa: T201

    refused = refund.delay("A-17", -1)
    refused.get(timeout=30, propagate=False)
    print("dead letter:", wait_for_letter(refused.id))  # noqa: T201

    print("explained:", *explain(running.id, app).sentences, sep="\n  ")  # noqa: T201


if __name__ == "__main__":
    main()
