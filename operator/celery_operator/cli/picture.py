"""Draws workflows and pools as they are now: a tree of steps with bars, and replicas over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from celery_operator.api.conditions import ConditionType
from celery_operator.local.gauges import PoolGauge
from celery_operator.local.outcome import condition, outcome_of, seconds_between
from celery_operator.services.ports import Manifest

BAR_WIDTH = 26
SPARK_WIDTH = 48
LEAST_SPARKS = 8
"""Fewer tell nothing."""
POOL_COLUMNS = 100
ALL_CELLS = 4
"""Of a pool's line, beside its replicas over time."""


@dataclass(frozen=True, slots=True)
class Signs:
    """The characters to draw with."""

    states: Mapping[str, tuple[str, str]]
    """State of a step -> (sign, style)."""
    spinner: str
    full: str
    begun: str
    empty: str
    sparks: str
    branch: str
    last: str


PRETTY = Signs(
    states={
        "Pending": ("○", "dim"),
        "Running": ("●", "cyan"),
        "Succeeded": ("✔", "green"),
        "Failed": ("✘", "red"),
        "Skipped": ("⊘", "dim"),
        "Revoked": ("⊘", "yellow"),
    },
    spinner="⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏",
    full="━",
    begun="╸",
    empty="─",
    sparks="▁▂▃▄▅▆▇█",
    branch="├─",
    last="└─",
)
ASCII = Signs(
    states={
        "Pending": (".", "dim"),
        "Running": ("*", "cyan"),
        "Succeeded": ("+", "green"),
        "Failed": ("x", "red"),
        "Skipped": ("-", "dim"),
        "Revoked": ("-", "yellow"),
    },
    spinner="|/-\\",
    full="#",
    begun=">",
    empty="-",
    sparks="_.:-=+*#",
    branch="|-",
    last="`-",
)


def draw_workflow(manifest: Manifest, signs: Signs, *, now: datetime, frame: int, most_steps: int) -> RenderableType:
    """Return the tree of one workflow."""
    status: Mapping[str, Any] = manifest.get("status") or {}
    steps = list(status.get("steps", ()))
    table = Table.grid(padding=(0, 1))
    for justify in ("left", "left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    shown, hidden = _choose(steps, most_steps)
    for index, step in enumerate(shown):
        is_last = index == len(shown) - 1 and not hidden
        table.add_row(*_step_cells(step, signs, now=now, frame=frame, is_last=is_last))
    parts: list[RenderableType] = [_title(manifest, signs, now=now, frame=frame), table]
    if hidden:
        parts.append(Text(f"{signs.last} … {hidden} more steps", "dim"))
    return Group(*parts)


def draw_pool(
    name: str,
    history: Sequence[PoolGauge],
    signs: Signs,
    *,
    most: int,
    columns: int = POOL_COLUMNS,
    name_columns: int = 0,
) -> RenderableType:
    """Return one pool's line of at most ``columns``: its name, replicas over time, and how its workers stand.

    The name has its room (``name_columns``, if other pools' lines should stand in line with this one's). Where not all
    fits, replicas over time are drawn shorter, then what is least worth knowing goes.
    """
    now = history[-1] if history else PoolGauge(0, 0)
    busy = f"{now.busy}/{now.slots} busy" if now.slots else ""
    waiting = "waiting unknown" if now.waiting is None else f"{now.waiting} waiting"
    workers = f"{now.ready} worker{'' if now.ready == 1 else 's'}"
    coming = f" → {now.desired}" if now.desired != now.ready else ""
    shown, room = [(Text(name, "bold magenta"), min(max(len(name), name_columns), columns))], columns
    room -= shown[0][1]
    for text, least in ((Text(workers + coming), 13), (Text(busy, "cyan"), 9), (Text(waiting, "dim"), 11)):
        width = max(text.cell_len, least)
        if width + 1 > room:
            break
        shown.append((text, width))
        room -= width + 1
    if len(shown) == ALL_CELLS and room > LEAST_SPARKS:
        width = min(room - 1, SPARK_WIDTH)
        shown.insert(1, (sparkline([gauge.ready for gauge in history], max(most, 1), signs, width), width))
    table = Table.grid(padding=(0, 1))
    for _, width in shown:
        table.add_column(no_wrap=True, width=width)
    table.add_row(*(text for text, _ in shown))
    return table


def sparkline(values: Sequence[int], most: int, signs: Signs, width: int) -> Text:
    """Return the values as a line of at most ``width`` signs; where values share a sign the largest counts."""
    text = Text()
    count = min(len(values), width)
    for place in range(count):
        begin, end = place * len(values) // count, (place + 1) * len(values) // count
        value = max(values[begin:end])
        height = 0 if value <= 0 else max(1, round(value / most * (len(signs.sparks) - 1)))
        text.append(signs.sparks[min(height, len(signs.sparks) - 1)], "magenta" if value else "dim")
    return text


def trouble_of(manifest: Manifest) -> str:
    """Return what a resource says about trouble right now, or nothing."""
    for kind, bad in (
        (ConditionType.ACCEPTED, "False"),
        (ConditionType.STALLED, "True"),
        (ConditionType.BROKER_REACHABLE, "False"),
        (ConditionType.RESULT_BACKEND_REACHABLE, "False"),
    ):
        said = condition(manifest, kind)
        if said.get("status") == bad:
            return f"{said['reason']}: {said.get('message', '')}".rstrip(": ")
    return ""


def _title(manifest: Manifest, signs: Signs, *, now: datetime, frame: int) -> Text:
    status: Mapping[str, Any] = manifest.get("status") or {}
    outcome = outcome_of(manifest)
    if outcome is None:
        sign, style, word = signs.spinner[frame % len(signs.spinner)], "cyan", str(status.get("phase", "Pending"))
    else:
        state = "Succeeded" if outcome.succeeded else "Failed"
        (sign, style), word = signs.states[state], state
    text = Text.assemble((f"{sign} ", style), (manifest["metadata"]["name"], "bold"), "  ", (word, style))
    progress = status.get("progress")
    if progress and progress != "0/0":
        text.append(f"  {progress} tasks", "dim")
    text.append(_time(status, now), "dim")
    trouble = trouble_of(manifest)
    if trouble:
        text.append(f"  {trouble}", "yellow")
    return text


def _step_cells(
    step: Mapping[str, Any], signs: Signs, *, now: datetime, frame: int, is_last: bool
) -> tuple[RenderableType, ...]:
    state = step["state"]
    sign, style = signs.states[state]
    if state == "Running":
        sign = signs.spinner[frame % len(signs.spinner)]
    branch = Text(f"{signs.last if is_last else signs.branch} ", "dim").append(sign, style)
    name = Text(step["name"], "" if state in ("Running", "Succeeded") else style)
    counts: Mapping[str, int] | None = step.get("tasks")
    done = "" if counts is None else f"{counts.get('succeeded', 0) + counts.get('failed', 0)}/{counts.get('total', 0)}"
    return branch, name, _bar(step, signs), Text(done), Text.assemble(_notes(step), (_time(step, now), "dim"))


def _bar(step: Mapping[str, Any], signs: Signs) -> Text:
    """Return a step's bar: what succeeded, what failed, what runs, the rest."""
    state, counts = step["state"], step.get("tasks")
    if counts is None and step["type"] != "Task":
        counts = {"total": 0}  # it is not known yet over how many items
    elif counts is None:
        single = "running" if state == "Running" else state.lower()
        counts = {"total": 1, single: 1}
    total = counts.get("total", 0)
    if not total:
        return Text(signs.full * BAR_WIDTH, "green") if state == "Succeeded" else Text(signs.empty * BAR_WIDTH, "dim")
    bar = Text()
    for name, sign, style in (
        ("succeeded", signs.full, "green"),
        ("failed", signs.full, "red"),
        ("running", signs.begun, "cyan"),
    ):
        left = BAR_WIDTH - len(bar)
        share = counts.get(name, 0) * BAR_WIDTH / total
        bar.append(sign * min(left, max(int(share), 1 if name != "succeeded" and share else 0)), style)
    return bar.append(signs.empty * (BAR_WIDTH - len(bar)), "dim")


def _notes(step: Mapping[str, Any]) -> Text:
    """Return what else is worth saying: what waits, what was retried, what failed."""
    counts: Mapping[str, int] = step.get("tasks") or {}
    said: list[tuple[str, str]] = []
    if step["state"] == "Running":
        said += [
            (f"{counts[key]} {key}", style)
            for key, style in (("running", "cyan"), ("queued", "dim"))
            if counts.get(key)
        ]
    retried = counts.get("retried", 0) if counts else (step.get("attempts") or 1) - 1
    if retried > 0:
        said.append((f"{retried} retried", "yellow"))
    if counts.get("failed"):
        said.append((f"{counts['failed']} failed", "red"))
    if step["state"] in ("Failed", "Skipped") and step.get("message"):
        said.append((str(step["message"]), "red" if step["state"] == "Failed" else "dim"))
    return Text("  ").join(Text(words, style) for words, style in said)


def _time(status: Mapping[str, Any], now: datetime) -> str:
    begin = status.get("startTime")
    if not begin:
        return ""
    seconds = seconds_between(begin, status.get("completionTime") or now.isoformat())
    return "" if seconds is None else f"  {duration(max(seconds, 0))}"


def duration(seconds: float) -> str:
    """Return seconds for people: ``7 s``, ``2:05``."""
    whole = int(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02}"


def _choose(steps: list[Mapping[str, Any]], most: int) -> tuple[list[Mapping[str, Any]], int]:
    """Return the steps to show where not all fit: what runs or failed first, in the order of the workflow."""
    if len(steps) <= most:
        return steps, 0
    order = {"Running": 0, "Failed": 1, "Pending": 2}
    ranked = sorted(range(len(steps)), key=lambda i: (order.get(steps[i]["state"], 3), i))[: max(most - 1, 1)]
    return [steps[i] for i in sorted(ranked)], len(steps) - len(ranked)
