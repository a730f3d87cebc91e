"""The parts of the benchmark, and the figures that come of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, figure
from benchmarks.patterns.agent_cost import measure_agent
from benchmarks.patterns.circuits import measure_circuits
from benchmarks.patterns.costs import measure_policies, measure_publishing, open_stage
from benchmarks.patterns.kills import Row, measure_kills
from benchmarks.patterns.mapreduce import SHARD_SECONDS, SLOTS, WORKERS, measure_mapreduce

PARTS = ("costs", "agent", "mapreduce", "circuits", "kills")

PLAIN = "a plain Celery task in turns with it, same run: all of its time"
STOCK = "a stock worker beside it, same run: all it uses"
PING = "celery inspect ping, same worker, same run"
CHORD = "Celery's chord, same workers, same run"
PYBREAKER = "pybreaker with CircuitRedisStorage, same machine, same run"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    publishes: int
    tasks: int
    worker_pairs: int
    probes: int
    pings: int
    shards: int
    items: int
    mapreduce_repeats: int
    circuit_calls: int


FULL = Sizes(
    publishes=3000,
    tasks=2000,
    worker_pairs=3,
    probes=500,
    pings=5,
    shards=400,
    items=10_000,
    mapreduce_repeats=3,
    circuit_calls=2000,
)
QUICK = Sizes(
    publishes=500,
    tasks=300,
    worker_pairs=1,
    probes=200,
    pings=2,
    shards=100,
    items=1000,
    mapreduce_repeats=1,
    circuit_calls=300,
)


class Measurements:
    """One run of the benchmark. ``details`` keeps what was measured, ``rows`` what SIGKILL leaves behind."""

    def __init__(self, sizes: Sizes, say: Callable[[str], None], *, quick: bool) -> None:
        self._sizes = sizes
        self._say = say
        self._quick = quick
        self.details: dict[str, Any] = {}
        self.rows: list[Row] = []

    def run(self, parts: Iterable[str]) -> None:
        """Measure the parts, in their order."""
        sizes, say, chosen = self._sizes, self._say, set(parts)
        if "costs" in chosen:
            with open_stage() as redis:
                self.details["publishing_ms"] = measure_publishing(redis, sizes.publishes, say)
                self.details["running_ms"] = measure_policies(redis, sizes.tasks, say)
        if "agent" in chosen:
            self.details["agent"] = measure_agent(sizes.worker_pairs, sizes.probes, sizes.pings, say)
        if "mapreduce" in chosen:
            self.details["mapreduce"] = measure_mapreduce(sizes.shards, sizes.items, sizes.mapreduce_repeats, say)
        if "circuits" in chosen:
            self.details["circuit_call_ms"], rows = measure_circuits(sizes.circuit_calls, say)
            self.rows += rows
        if "kills" in chosen:
            self.rows += measure_kills(say, quick=self._quick)
        self.details["after_sigkill"] = [row.to_json() for row in self.rows]

    def figures(self) -> list[Figure]:
        """Return what was found; None for what was not measured."""
        return [
            *self._cost_figures(),
            *self._circuit_figures(),
            *self._agent_figures(),
            *self._mapreduce_figures(),
        ]

    def _cost_figures(self) -> list[Figure]:
        publishing, running = self.details.get("publishing_ms"), self.details.get("running_ms")
        return [
            figure(
                "publish_overhead_ms",
                "publishing a pattern task without policies: more than plain, p50, ms",
                publishing
                and (publishing["unguarded"]["p50"] - publishing["plain"]["p50"], publishing["plain"]["p50"]),
                goal=0.10,
                of=PLAIN,
            ),
            figure(
                "singleton_publish_overhead_ms",
                "… as a singleton that is decided when it is published",
                publishing and (publishing["single"]["p50"] - publishing["plain"]["p50"], publishing["plain"]["p50"]),
                of=PLAIN,
            ),
            figure(
                "policies_overhead_ms",
                "running under idempotency, singleton, rate limit, breaker: more than plain, p50, ms",
                running and (running["guarded"]["p50"] - running["plain"]["p50"], running["plain"]["p50"]),
                goal=1.5,
                of=PLAIN,
            ),
            figure(
                "policies_cpu_ms",
                "… of that, the task's process computing, p50, ms",
                running and (running["guarded"]["cpu_p50"] - running["plain"]["cpu_p50"], running["plain"]["cpu_p50"]),
                of=PLAIN,
            ),
            figure(
                "policies_round_trips",
                "… exchanges with Redis for each task",
                running and running["round_trips"],
                goal=4,
            ),
        ]

    def _circuit_figures(self) -> list[Figure]:
        found = self.details.get("circuit_call_ms") or {}
        ours, peer = found.get("ours", {}), found.get("pybreaker", {})
        return [
            figure(
                "circuit_call_ms",
                "a call through a closed circuit, p50, ms",
                (ours.get("p50"), peer.get("p50")),
                of=PYBREAKER,
            ),
            figure(
                "circuit_round_trips",
                "… exchanges with Redis for each call",
                (ours.get("round_trips"), peer.get("round_trips")),
                of=PYBREAKER,
            ),
        ]

    def _agent_figures(self) -> list[Figure]:
        found = self.details.get("agent")
        ping = found["inspect_ping"] if found else {}
        return [
            figure(
                "agent_memory_mb",
                "the agent: more memory of the whole worker, MB",
                found and _more(found["megabytes"]),
                goal=20,
                of=STOCK,
            ),
            figure(
                "agent_cpu_percent",
                "… more CPU at rest, % of a core",
                found and _more(found["cpu_percent"]),
                goal=0.5,
                of=STOCK,
            ),
            figure(
                "probe_ms",
                "a health probe, p50, ms",
                found and (found["probe"]["p50"], ping["wall"]["p50"]),
                goal=2,
                of=PING,
            ),
            figure(
                "probe_cpu_ms",
                "… CPU of the worker for it, ms",
                found and (found["probe_worker_cpu_ms"], ping["cpu_ms"]["p50"]),
                of="CPU of the command celery inspect ping, same run",
            ),
        ]

    def _mapreduce_figures(self) -> list[Figure]:
        found = self.details.get("mapreduce")
        shards, items = self._sizes.shards, self._sizes.items
        title = f"map-reduce of {shards} shards of {SHARD_SECONDS * 1000:.0f} ms on {WORKERS * SLOTS} slots: efficiency"
        return [
            figure(
                "mapreduce_efficiency",
                title,
                found and _pair(found["shards"], "efficiency"),
                goal=0.97,
                most=True,
                of=CHORD,
            ),
            figure(
                "mapreduce_submit_s",
                f"map-reduce of {items:,} items: submitted, s",
                found and _pair(found["items"], "submit_s"),
                goal=0.2,
                of=CHORD,
            ),
            figure("mapreduce_items_s", "… done, s", found and _pair(found["items"], "seconds"), of=CHORD),
        ]


def show_rows(console: Console, rows: Sequence[Row]) -> None:
    """Print what SIGKILL leaves behind."""
    table = Table(title="After a SIGKILL", title_justify="left", pad_edge=False, show_lines=True)
    for column in ("library", "killed in the middle", "settings", "afterwards"):
        table.add_column(column)
    for row in rows:
        table.add_row(row.library, row.killed, row.settings, row.outcome)
    console.print(table)


def _more(pairs: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Return by how much ours is more, the median of pairs, and the median of the stock workers."""
    return (
        statistics.median(pair["ours"] - pair["stock"] for pair in pairs),
        statistics.median(pair["stock"] for pair in pairs),
    )


def _pair(found: dict[str, list[dict[str, float]]], field: str) -> tuple[float, float]:
    return (
        statistics.median(each[field] for each in found["workflow"]),
        statistics.median(each[field] for each in found["chord"]),
    )
