"""Shows a run while it goes on: a picture where there is a terminal, lines where there is none."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from celery_operator.adapters.clock import SystemClock
from celery_operator.cli.picture import ASCII, PRETTY, draw_pool, draw_workflow, duration, trouble_of
from celery_operator.local.objects import key_of
from celery_operator.local.run import LocalRun
from celery_operator.services.ports import EventRecord, Manifest

FRAMES_PER_SECOND = 8
EVENT_LINES = 4
LINES_BESIDE_STEPS = 6
"""Lines of the picture that are neither steps nor pools: heading, blank lines, events."""
PLAIN_SECONDS = 1.0
"""How often lines look for something new."""
COUNT_SECONDS = 5.0
"""How often a line tells of nothing but counts."""


class Progress(Protocol):
    """What shows a run."""

    async def show(self, run: LocalRun) -> None:
        """Show the run until cancelled."""
        ...

    def say(self, text: str) -> None:
        """Tell something that is no part of the run."""
        ...

    def close(self) -> None:
        """Leave the last state on the screen."""
        ...


class Picture:
    """A picture that is drawn again several times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._signs = ASCII if console.options.ascii_only else PRETTY
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._events: deque[Text] = deque(maxlen=EVENT_LINES)
        self._run: LocalRun | None = None
        self._frame = 0

    async def show(self, run: LocalRun) -> None:
        """Draw until cancelled."""
        self._run = run
        run.cluster.on_event(self._note)
        self._live.start()
        while True:
            self._draw()
            await asyncio.sleep(1 / FRAMES_PER_SECOND)

    def say(self, text: str) -> None:
        """Print a line above the picture."""
        self._console.print(Text(text, "dim"))

    def close(self) -> None:
        """Draw for the last time."""
        if self._live.is_started:
            self._draw()
            self._live.stop()

    def _draw(self) -> None:
        self._frame += 1
        self._live.update(self._compose(), refresh=True)

    def _compose(self) -> RenderableType:
        run = self._run
        if run is None:
            return Text("")
        workflows, pools = run.workflows(), run.pools()
        room = self._console.height - LINES_BESIDE_STEPS - len(pools) - 2 * len(workflows) - EVENT_LINES
        steps = max(room // max(len(workflows), 1), 3)
        now = self._clock.now()
        parts: list[RenderableType] = []
        for workflow in workflows:
            parts += [draw_workflow(workflow, self._signs, now=now, frame=self._frame, most_steps=steps), Text("")]
        for pool in pools:
            parts.append(self._pool(run, pool))
            trouble = trouble_of(pool)
            if trouble:
                parts.append(Text(f"  {trouble}", "yellow", no_wrap=True, overflow="ellipsis"))
        if self._events:
            parts += [Text(""), *self._events]
        return Group(*parts)

    def _pool(self, run: LocalRun, pool: Manifest) -> RenderableType:
        history = run.gauges.history.get(key_of(pool), [])
        scaling = pool["spec"].get("autoscaling") or {}
        most = int(scaling.get("maxReplicas", 0)) or max((gauge.desired for gauge in history), default=1)
        longest = max(len(each["metadata"]["name"]) for each in run.pools())
        return draw_pool(
            pool["metadata"]["name"],
            history,
            self._signs,
            most=most,
            columns=self._console.width,
            name_columns=min(longest, self._console.width // 3),
        )

    def _note(self, event: EventRecord) -> None:
        since = duration(self._clock.monotonic() - self._began)
        style = "yellow" if event.type == "Warning" else "dim"
        text = Text(f"{since:>6}  {event.key.name}: {event.reason}: {event.message}", style)
        text.no_wrap, text.overflow = True, "ellipsis"
        self._events.append(text)


class Lines:
    """A line for everything that changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self._told: dict[str, str] = {}
        self._counted = float("-inf")

    async def show(self, run: LocalRun) -> None:
        """Print until cancelled."""
        run.cluster.on_event(self._note)
        while True:
            self._look(run)
            await asyncio.sleep(PLAIN_SECONDS)

    def say(self, text: str) -> None:
        """Print a line."""
        elapsed = self._clock.monotonic() - self._began
        self._console.print(f"{elapsed:7.1f}s  {text}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Everything has been printed."""

    def _look(self, run: LocalRun) -> None:
        count = self._clock.monotonic() - self._counted >= COUNT_SECONDS
        if count:
            self._counted = self._clock.monotonic()
        for workflow in run.workflows():
            self._changed(str(key_of(workflow)), _workflow_line(workflow), show_counts=count)
            for step in (workflow.get("status") or {}).get("steps", ()):
                name = workflow["metadata"]["name"]
                self._changed(f"{key_of(workflow)}/{step['name']}", (f"{name}/{step['name']}: {step['state']}", ""))
        for pool in run.pools():
            history = run.gauges.history.get(key_of(pool))
            if history:
                gauge = history[-1]
                waiting = "unknown" if gauge.waiting is None else gauge.waiting
                line = f"{pool['metadata']['name']}: {gauge.ready} of {gauge.desired} workers ready"
                counts = f", {gauge.busy} of {gauge.slots} slots busy, {waiting} waiting"
                self._changed(f"pool {key_of(pool)}", (line, counts), show_counts=count)

    def _changed(self, key: str, line: tuple[str, str], *, show_counts: bool = False) -> None:
        """Print what has changed; the second part, counts, alone only now and then."""
        whole = "".join(line)
        before = self._told.get(key, "")
        if whole != before and (show_counts or not before.startswith(line[0])):
            self._told[key] = whole
            self.say(whole)

    def _note(self, event: EventRecord) -> None:
        self.say(f"{event.key.name}: {event.reason}: {event.message}")


def _workflow_line(workflow: Manifest) -> tuple[str, str]:
    status: dict[str, Any] = workflow.get("status") or {}
    line = f"{workflow['metadata']['name']}: {status.get('phase', 'Pending')}"
    return line, f", {status.get('progress', '0/0')} tasks done"


def progress_for(console: Console, *, plain: bool) -> Progress:
    """Return a picture where it can be drawn, else lines."""
    return Picture(console) if console.is_terminal and not plain else Lines(console)


def last_lines(lines: Iterable[str], title: str) -> RenderableType:
    """Return the end of a log, framed by its name."""
    return Group(Text(title, "bold"), *(Text(f"  {line}", "dim") for line in lines))
