"""Calls the shop's tasks and prints what it sees."""

# ruff: noqa: INP001 - a program beside its application, no package

from __future__ import annotations

import time

from partners import export, mail, price, thumbnail
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
    keep_promises()
    bear_others()


def keep_promises() -> None:
    """Call the tasks of ``shop``."""
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


def bear_others() -> None:
    """Call the tasks of ``partners``."""
    print("prices:", [price.delay("lamp").get(timeout=30) for _ in range(5)])  # noqa: T201

    exports = [export.delay(month) for month in ("May", "June", "July")]
    print("readers at a time:", max(answer.get(timeout=30)[1] for answer in exports))  # noqa: T201

    mails = [mail.delay(f"A-{number}") for number in range(6)]
    tries = [answer.get(timeout=30, propagate=False).args[1] for answer in mails]
    print("six mails, all in vain, tries:", sum(tries))  # noqa: T201

    small = thumbnail.delay("x" * 1_000_000)
    print("after a crash:", len(small.get(timeout=30)), "bytes")  # noqa: T201
    stored = app.backend.get(app.backend.get_key_for_task(small.id))
    print("in the result backend only a claim:", len(stored) < 1000)  # noqa: T201


if __name__ == "__main__":
    main()
