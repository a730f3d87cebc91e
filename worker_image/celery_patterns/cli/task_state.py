"""``celery-patterns task`` and ``explain``: where a task is, what happened to it, and why it does not run."""

from __future__ import annotations

import argparse
from typing import Any

from celery_patterns.cli.application import add_arguments, application
from celery_patterns.cli.exits import Exit
from celery_patterns.cli.tables import ago, say, say_json, table
from celery_patterns.resilience.places import letters_of
from celery_patterns.store import StoreError
from celery_patterns.tasks.explanation import explain


def add_commands(commands: Any) -> None:
    """Add ``task`` and ``explain``."""
    task = commands.add_parser("task", help="the state of tasks, one line each")
    task.add_argument("id", nargs="+")
    task.set_defaults(run=run_task)
    explaining = commands.add_parser("explain", help="where a task is, and why it does not run")
    explaining.add_argument("id")
    explaining.set_defaults(run=run_explain)
    for each in (task, explaining):
        each.add_argument("--queue", action="append", default=[], help="look into this queue, too; repeatable")
        add_arguments(each)


def run_task(options: argparse.Namespace) -> int:
    """Show the state of tasks."""
    with application(options) as app:
        found = [explain(task_id, app, queues=options.queue) for task_id in options.id]
    if options.json:
        say_json([each.to_json() for each in found])
    else:
        rows = [
            (each.task_id, each.task or "-", each.state or "-", each.where, each.queue or each.worker or "-",
             each.attempt or "-", _progress(each.progress))
            for each in found
        ]  # fmt: skip
        say(table(("ID", "TASK", "STATE", "WHERE", "QUEUE OR WORKER", "TRY", "PROGRESS"), rows))
    return Exit.WELL if all(each.where != "unknown" or each.state for each in found) else Exit.FOUND


def run_explain(options: argparse.Namespace) -> int:
    """Explain one task."""
    with application(options) as app:
        found = explain(options.id, app, queues=options.queue)
        letters, unseen = _letters(app, options.id)
    if options.json:
        say_json({**found.to_json(), "dead_letters": [letter.summary() for letter in letters]})
    else:
        say(f"{found.task or 'task'}[{found.task_id}]: {found.state or 'no state is stored'}; {found.where}")
        for sentence in found.sentences:
            say(f"  {sentence}")
        for letter in letters:
            say(f"  It is a dead letter of {letter.queue} ({letter.reason}): {letter.error}")
            say(f"    celery-patterns dlq show --queue {letter.queue} {letter.id}")
        for text in (*found.unseen, *unseen):
            say(f"  Not seen: {text}")
    return Exit.WELL if letters or found.where != "unknown" or found.state else Exit.FOUND


def _letters(app: Any, task_id: str) -> tuple[list[Any], list[str]]:
    try:
        letters = letters_of(app)
        queues = letters.queues()
        found = [letter for queue in queues for letter in letters.scan(queue) if letter.message.task_id == task_id]
    except StoreError as error:
        return [], [f"dead letters: {error}"]
    return found, []


def _progress(progress: dict[str, Any] | None) -> str:
    if not progress:
        return "-"
    done, total = progress.get("done"), progress.get("total")
    age = progress.get("age")
    return f"{done}/{total}" + (f", {ago(float(age))} ago" if isinstance(age, (int, float)) else "")
