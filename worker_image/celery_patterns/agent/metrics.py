"""Prometheus metrics of one worker, counted in its main process only.

Children are recycled and killed; the main process hears the end of every task, so its counts are exact, and there are
no files of dead processes to add up. The text is written here: an injected agent finds no Prometheus client in the
user's image, and a client's locks would be greenlets' locks where the pool is gevent or eventlet.

Beside the agent's own names stand those of celery-exporter, which counts the same from events, for dashboards that
exist.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from celery_patterns import protocol
from celery_patterns.agent import native

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

RUNTIME_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3600)
"""From a no-op to an hour; few, because every task name has all of them."""
EXPORTER_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""celery-exporter's, which dashboards' quantiles are made for."""
MANY_LABELS = 10_000
"""Label sets of one metric; beyond it the rest is counted together, so that no task name can fill the memory."""
OTHER = "(other)"

Labels = tuple[str, ...]

EXPORTED: Final = {
    protocol.SUCCESS: "succeeded",
    protocol.FAILURE: "failed",
    protocol.RETRY: "retried",
    protocol.REVOKED: "revoked",
    protocol.REJECTED: "rejected",
}
"""celery-exporter's word for each end of a task."""


class Counter:
    """A number for each set of label values, that only grows."""

    kind = "counter"

    def __init__(self, name: str, about: str, labels: Labels) -> None:
        self.name, self.about, self._labels = name, about, labels
        self._values: dict[Labels, float] = {}
        self._lock = native.new_lock()

    def count(self, values: Labels, amount: float = 1) -> None:
        """Add to one; an amount of 0 only makes it visible."""
        with self._lock:
            values = _bounded(self._values, values)
            self._values[values] = self._values.get(values, 0) + amount

    def samples(self) -> Iterator[str]:
        """Yield its lines."""
        with self._lock:
            values = list(self._values.items())
        for labels, value in values:
            yield _sample(self.name, zip(self._labels, labels, strict=True), value)


class Histogram:
    """For each set of label values, how many observations were at most so large."""

    kind = "histogram"

    def __init__(self, name: str, about: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self.name, self.about, self._labels, self._bounds = name, about, labels, bounds
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        self._lock = native.new_lock()

    def observe(self, values: Labels, value: float) -> None:
        """Note one observation."""
        with self._lock:
            values = _bounded(self._counts, values)
            counts = self._counts.get(values)
            if counts is None:
                counts = self._counts[values] = [0] * (len(self._bounds) + 1)
            counts[bisect_left(self._bounds, value)] += 1
            self._sums[values] = self._sums.get(values, 0.0) + value

    def samples(self) -> Iterator[str]:
        """Yield its lines."""
        with self._lock:
            observed = [(labels, list(counts), self._sums[labels]) for labels, counts in self._counts.items()]
        for values, counts, total in observed:
            labels = list(zip(self._labels, values, strict=True))
            up_to = 0
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                up_to += count
                yield _sample(f"{self.name}_bucket", [*labels, ("le", _number(bound))], up_to)
            yield _sample(f"{self.name}_count", labels, up_to)
            yield _sample(f"{self.name}_sum", labels, total)


class Metrics:
    """All metrics of one worker.

    Args:
        state: Returns the worker's state.
        pool: ``namespace/name`` of its pool, or "".
        hostname: Its node name; celery-exporter's label is what follows the ``@``.
        waiting_letters: Returns how many dead letters cannot be kept yet; None if this worker keeps none.
    """

    def __init__(
        self,
        state: Callable[[], protocol.WorkerState],
        pool: str,
        hostname: str,
        waiting_letters: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._state = state
        self._waiting_letters = waiting_letters
        self._pool = pool
        self._host = hostname.partition("@")[2] or hostname
        task = ("name", "hostname", "queue_name")
        self._finished = Counter(
            "celery_agent_tasks_finished_total", "Tasks that ended, by task and state.", ("task", "state")
        )
        self._runtime = Histogram(
            "celery_agent_task_runtime_seconds", "Time from a task's start to its end.", ("task",), RUNTIME_BUCKETS
        )
        self._dropped = Counter(
            "celery_agent_claims_dropped_total", "Duplicates of workflow tasks that did not run.", ()
        )
        self._dropped.count((), 0)
        self._letters = Counter(
            "celery_agent_dead_letters_total", "Messages that were kept as dead letters.", ("queue", "reason")
        )
        self._lost_letters = Counter(
            "celery_agent_dead_letters_lost_total",
            "Dead letters that could not be kept: their content is in the log alone.",
            ("queue", "reason"),
        )
        self._delay = Histogram(
            "celery_agent_task_delay_seconds",
            "Time from a message's publishing to its task's start, where the message says when it was published.",
            ("task",),
            RUNTIME_BUCKETS,
        )
        self._exported = {
            event: Counter(f"celery_task_{event}_total", about, (*task, "exception") if event == "failed" else task)
            for event, about in (
                ("received", "Tasks that this worker received."),
                ("started", "Tasks that began."),
                ("succeeded", "Tasks that succeeded."),
                ("failed", "Tasks that failed."),
                ("retried", "Tasks that will be tried again."),
                ("revoked", "Tasks that were revoked."),
                ("rejected", "Tasks that were rejected."),
            )
        }
        self._exported_runtime = Histogram(
            "celery_task_runtime", "Run time of tasks that succeeded, in seconds.", task, EXPORTER_BUCKETS
        )

    def received(self, task: str, queue: str) -> None:
        """Count a message that became a task; makes the task's other counters visible, as rates need a first 0."""
        labels = (task, self._host, queue)
        for event, counter in self._exported.items():
            counter.count((*labels, "") if event == "failed" else labels, event == "received")

    def started(self, task: str, queue: str, delay: float | None) -> None:
        """Count the start of a task, ``delay`` seconds after it was published."""
        self._exported["started"].count((task, self._host, queue))
        if delay is not None:
            self._delay.observe((task,), delay)

    def ended(self, task: str, queue: str, state: str, runtime: float | None, exception: str = "") -> None:
        """Count the end of a task."""
        self._finished.count((task, state))
        if runtime is not None:
            self._runtime.observe((task,), runtime)
        event = EXPORTED.get(state)
        if event is None:
            return
        labels = (task, self._host, queue)
        self._exported[event].count((*labels, exception) if event == "failed" else labels)
        if state == protocol.SUCCESS and runtime is not None:
            self._exported_runtime.observe(labels, runtime)

    def dropped(self) -> None:
        """Count a duplicate that was dropped."""
        self._dropped.count(())

    def letter_kept(self, queue: str, reason: str) -> None:
        """Count a dead letter."""
        self._letters.count((queue, reason))

    def letter_given_up(self, queue: str, reason: str) -> None:
        """Count a dead letter that could not be kept."""
        self._lost_letters.count((queue, reason))

    def text(self) -> bytes:
        """Return the exposition."""
        state = self._state()
        lines: list[str] = []
        metrics: list[Counter | Histogram] = [self._finished, self._runtime, self._dropped, self._delay]
        metrics += [self._letters, self._lost_letters]
        for metric in [*metrics, *self._exported.values(), self._exported_runtime]:
            lines += (f"# HELP {metric.name} {metric.about}", f"# TYPE {metric.name} {metric.kind}", *metric.samples())
        lines += self._gauges(state)
        return ("\n".join(lines) + "\n").encode()

    def _gauges(self, state: protocol.WorkerState) -> Iterator[str]:
        """Yield what is read at the moment of asking."""
        about = {"hostname": state.hostname, "pool": self._pool, "celery_version": state.celery_version}
        host = {"hostname": self._host}
        yield from _gauge("celery_agent_info", "This worker.", 1, about)
        yield from _gauge("celery_agent_slots", "Tasks it can run at a time.", state.slots)
        yield from _gauge("celery_agent_tasks_active", "Tasks running.", state.active)
        yield from _gauge("celery_agent_tasks_reserved", "Tasks taken and waiting for a slot.", state.reserved)
        yield from _gauge("celery_agent_tasks_scheduled", "Tasks held for later.", state.scheduled)
        yield from _gauge("celery_agent_draining", "1 while it takes no more tasks.", int(state.draining))
        waiting = self._waiting_letters()
        if waiting is not None:
            yield from _gauge("celery_agent_dead_letters_waiting", "Dead letters that cannot be kept yet.", waiting)
        yield from _gauge("celery_worker_up", "1: this worker answers.", 1, host)
        yield from _gauge("celery_worker_tasks_active", "Tasks running.", state.active, host)


def _gauge(name: str, about: str, value: float, labels: Mapping[str, str] | None = None) -> tuple[str, str, str]:
    return f"# HELP {name} {about}", f"# TYPE {name} gauge", _sample(name, (labels or {}).items(), value)


def _sample(name: str, labels: Iterable[tuple[str, str]], value: float) -> str:
    text = ",".join(f'{label}="{_escaped(each)}"' for label, each in labels)
    return f"{name}{{{text}}} {_number(value)}" if text else f"{name} {_number(value)}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return repr(float(value))


def _bounded(known: Mapping[Labels, object], values: Labels) -> Labels:
    if values in known or len(known) < MANY_LABELS:
        return values
    return (OTHER,) * len(values)
