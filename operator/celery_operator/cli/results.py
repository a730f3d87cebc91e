"""What stands at the end of a run: how each workflow ended, its outputs, its failures, and where to look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

from celery_operator.cli.picture import ASCII, PRETTY, duration
from celery_operator.cli.progress import last_lines
from celery_operator.cli.values import show_output
from celery_operator.local.node import tail
from celery_operator.local.objects import key_of
from celery_operator.local.outcome import Outcome, seconds_between
from celery_operator.local.run import LocalRun

MOST_FAILURES = 5
MOST_COUNTS = 16
LOG_LINES = 12


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print each workflow's result for people."""
    signs = ASCII if console.options.ascii_only else PRETTY
    for outcome in outcomes:
        sign, style = signs.states["Succeeded" if outcome.succeeded else "Failed"]
        seconds = seconds_between(outcome.status.get("startTime"), outcome.status.get("completionTime"))
        took = "" if seconds is None else f" in {duration(seconds)}"
        word = "succeeded" if outcome.succeeded else "failed"
        console.print()
        console.print(Text.assemble((f"{sign} ", style), (outcome.name, "bold"), (f" {word}{took}", style)))
        if not outcome.succeeded:
            _indented(console, Text(f"{outcome.reason}: {outcome.message}".rstrip(": "), style))
        _print_failures(console, outcome)
        for output in outcome.status.get("outputs", ()):
            ascii_only = console.options.ascii_only
            _indented(console, show_output(output["name"], _value(output), ascii_only=ascii_only))


def _print_failures(console: Console, outcome: Outcome) -> None:
    """Print the failed attempts that were seen last, oldest first."""
    failures = sorted(outcome.status.get("failures", ()), key=lambda failure: str(failure["time"]))
    for failure in failures[-MOST_FAILURES:]:
        name = f"{failure['step']}[{failure['index']}]" if "index" in failure else failure["step"]
        _indented(console, _failure(failure, name, tolerated=outcome.succeeded))


def _value(output: Mapping[str, Any]) -> Any:
    if "reference" not in output:
        return output.get("value")
    where = output["reference"]
    return f"too large to show: the result of step {where['step']}, task {where['taskID']}"


def _indented(console: Console, what: RenderableType) -> None:
    """Print two columns from the left; a line is not broken where nobody's terminal is too narrow for it."""
    if isinstance(what, Text):
        console.print(Text("  ").append_text(what), soft_wrap=not console.is_terminal)
    else:
        console.print(Padding(what, (0, 0, 0, 2), expand=False))


def print_pools(console: Console, run: LocalRun) -> None:
    """Print how many workers each pool had in the course of the run."""
    arrow = " > " if console.options.ascii_only else " → "
    courses = [(pool["metadata"]["name"], run.gauges.course.get(key_of(pool), [])) for pool in run.pools()]
    told = [(name, course) for name, course in courses if len(course) > 1]
    if told:
        console.print()
    for name, course in told:
        shown = [*course[:MOST_COUNTS], "…"] if len(course) > MOST_COUNTS else course
        text = Text.assemble("workers of ", (name, "bold magenta"), "  ", arrow.join(map(str, shown)))
        console.print(text, highlight=False)


def print_worker_logs(console: Console, run: LocalRun) -> None:
    """Print the end of the log that was written to last, and where the others are."""
    logs = run.logs()
    if logs:
        console.print()
        lines = last_lines(tail(logs[-1], LOG_LINES), f"The end of {logs[-1].name}:")
        console.print(lines, soft_wrap=True, highlight=False)


def to_json(outcomes: Sequence[Outcome], *, error: str = "") -> str:
    """Return the whole result for scripts."""
    body: dict[str, Any] = {
        "succeeded": not error and all(outcome.succeeded for outcome in outcomes),
        "workflows": [outcome.to_json() for outcome in outcomes],
    }
    if error:
        body["error"] = error
    return json.dumps(body, indent=2, ensure_ascii=False)


def _failure(failure: Mapping[str, Any], name: str, *, tolerated: bool) -> Text:
    style = "yellow" if tolerated else "red"
    return Text.assemble(
        (name, style),
        (f" attempt {failure['attempt']}: ", "dim"),
        f"{failure['exception']}: {failure['message']}",
        (f"  ({failure['worker']})" if failure.get("worker") else "", "dim"),
    )
