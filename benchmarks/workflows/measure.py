"""The measurements: ours and the baseline in turns, so that both meet the same moods of the machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from benchmarks.figures import Figure, figure
from benchmarks.series import percentile
from benchmarks.workflows.stage import Stage

PARTS = ("steps", "throughput", "memory", "fanout", "large")
SETTLE_SECONDS = 12.0
"""Before memory is read: by then the operator has started everything it keeps, and has given back what a burst took
(it looks every ten seconds)."""

Kind = Literal["workflow", "bare"]
KINDS: tuple[Kind, Kind] = ("workflow", "bare")
BARE = "the bare floor, same run"
beside_floor = partial(figure, of=BARE)
MESSAGES = "the same tasks sent bare to the same workers, same run"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    chain_steps: int
    chain_repeats: int
    workflows: int
    throughput_repeats: int
    fanout_items: int
    fanout_repeats: int
    large_items: int
    """0: not measured."""
    empty_pools: int


FULL = Sizes(
    chain_steps=100,
    chain_repeats=5,
    workflows=1000,
    throughput_repeats=3,
    fanout_items=10_000,
    fanout_repeats=3,
    large_items=100_000,
    empty_pools=100,
)
QUICK = Sizes(
    chain_steps=100,
    chain_repeats=2,
    workflows=300,
    throughput_repeats=1,
    fanout_items=3000,
    fanout_repeats=1,
    large_items=0,
    empty_pools=20,
)


class Measurements:
    """One run of the benchmark. ``details`` keeps every single measurement."""

    def __init__(self, stage: Stage, sizes: Sizes, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._sizes = sizes
        self._say = say
        self.details: dict[str, Any] = {}

    def run(self, parts: Iterable[str]) -> None:
        """Measure the parts, in the order that memory needs: idle first, then after the finished workflows."""
        self._warm_up()
        if "memory" in parts:
            self._memory_idle()
        if "steps" in parts:
            self._steps()
        if "throughput" in parts or "memory" in parts:
            self._throughput()
        if "memory" in parts:
            self._memory_loaded()
        self._stage.clear()
        self._stage.end_bare()
        if "fanout" in parts:
            self._fanout()
        if "large" in parts and self._sizes.large_items:
            self._large()

    # ------------------------------------------------------------------------------------------------- the parts

    def _warm_up(self) -> None:
        self._say("warming up")
        for kind in KINDS:
            self._load("warm-up", "chain", kind, 10)
        self._load("warm-up", "fanout", "workflow", 500)
        self._load("warm-up", "messages", 500)
        self._stage.clear()

    def _memory_idle(self) -> None:
        self.details["memory_idle_mib"] = self._settled_memory()
        self.details["memory_idle_bare_mib"] = self._stage.memory_mib(bare=True)

    def _steps(self) -> None:
        for number in range(self._sizes.chain_repeats):
            for kind in KINDS:
                found = self._load(f"steps {kind}", "chain", kind, self._sizes.chain_steps)
                p50, p99 = statistics.median(found["step_ms"]), percentile(found["step_ms"], 99)
                self._say(
                    f"chain of {self._sizes.chain_steps} ({kind}, {number + 1}): {found['seconds']:.2f} s, "
                    f"a step p50 {p50:.1f} ms, p99 {p99:.1f} ms"
                )

    def _throughput(self) -> None:
        for number in range(self._sizes.throughput_repeats):
            for kind in ("bare", "workflow"):
                if kind == "bare":
                    self._stage.clear()  # what finished last stays for the measurement of memory
                found = self._load(f"throughput {kind}", "many", kind, self._sizes.workflows)
                self._say(
                    f"{self._sizes.workflows} workflows ({kind}, {number + 1}): {found['seconds']:.1f} s, "
                    f"{self._sizes.workflows / found['seconds'] * 60:,.0f} a minute, "
                    f"{found['writes_per_workflow']:.2f} writes each"
                )

    def _memory_loaded(self) -> None:
        self._stage.add_empty_pools(self._sizes.empty_pools)
        loaded = self._settled_memory()
        self.details["memory_loaded_mib"] = loaded
        self.details["memory_loaded_bare_mib"] = self._stage.memory_mib(bare=True)
        self._load("memory: as many once more", "many", "workflow", self._sizes.workflows)
        self.details["memory_per_workflow_kib"] = (self._settled_memory() - loaded) * 1024 / self._sizes.workflows
        self._stage.remove_empty_pools()

    def _settled_memory(self) -> float:
        time.sleep(SETTLE_SECONDS)
        return self._stage.memory_mib()

    def _fanout(self) -> None:
        for number in range(self._sizes.fanout_repeats):
            bare = self._load("fanout bare", "messages", self._sizes.fanout_items)
            ours = self._load("fanout workflow", "fanout", "workflow", self._sizes.fanout_items)
            self._say(
                f"{self._sizes.fanout_items} tasks ({number + 1}): {ours['seconds']:.2f} s as a workflow, "
                f"{bare['seconds']:.2f} s bare, ratio {ours['seconds'] / bare['seconds']:.2f}"
            )
            self._stage.clear()

    def _large(self) -> None:
        self._say(f"{self._sizes.large_items} items in one workflow")
        found = self._load("large", "fanout", "workflow", self._sizes.large_items)
        self._say(f"{found['succeeded']} succeeded in {found['seconds']:.0f} s, status {found['status_bytes']} bytes")

    def _load(self, name: str, *arguments: object) -> dict[str, Any]:
        before = self._stage.cpu_seconds()
        found = self._stage.load(*arguments)
        after = self._stage.cpu_seconds()
        found["cpu_seconds"] = {pod: round(after[pod] - before.get(pod, 0.0), 2) for pod in after}
        found["load_1_minute"] = round(os.getloadavg()[0], 2)
        self.details.setdefault(name, []).append(found)
        return found

    # ------------------------------------------------------------------------------------------------- the figures

    def figures(self) -> list[Figure]:
        """Return what was found; None for what was not measured."""
        return [*self._speed_figures(), *self._fanout_figures(), *self._memory_figures()]

    def _speed_figures(self) -> list[Figure]:
        step, floor = self._steps_of("workflow"), self._steps_of("bare")
        rate, bare_rate = self._rate("workflow"), self._rate("bare")
        writes = [self._median(f"throughput {kind}", "writes_per_workflow") for kind in KINDS]
        return [
            beside_floor(
                "step_p50_ms", "chain: a step, p50, ms", (percentile(step, 50), percentile(floor, 50)), goal=15
            ),
            beside_floor(
                "step_p99_ms", "chain: a step, p99, ms", (percentile(step, 99), percentile(floor, 99)), goal=100
            ),
            beside_floor(
                "workflows_per_minute", "workflows of one task, a minute", (rate, bare_rate), goal=3000, most=True
            ),
            beside_floor("workflows_ratio", "… times the floor's", _ratio(rate, bare_rate), goal=0.5, most=True),
            beside_floor("api_writes_per_workflow", "API writes for each of them", (writes[0], writes[1]), goal=3),
        ]

    def _fanout_figures(self) -> list[Figure]:
        ours, bare = (self._median(f"fanout {kind}", "seconds") for kind in KINDS)
        large: dict[str, Any] = (self.details.get("large") or [{}])[-1]
        items = f"fan-out of {self._sizes.fanout_items:,}"
        return [
            figure("fanout_10k_ratio", f"{items}: times the bare messages", _ratio(ours, bare), goal=1.05, of=MESSAGES),
            figure("fanout_10k_s", "… in seconds", (ours, bare), of=MESSAGES),
            figure(
                "fanout_100k_status_bytes", "fan-out of 100,000: status, bytes", large.get("status_bytes"), goal=20480
            ),
            figure("fanout_100k_s", "… in seconds", large.get("seconds")),
        ]

    def _memory_figures(self) -> list[Figure]:
        found = self.details.get
        sizes = self._sizes
        loaded = f"… with {sizes.workflows} finished workflows, {sizes.empty_pools} pools, MiB"
        bare_idle, bare_loaded = found("memory_idle_bare_mib"), found("memory_loaded_bare_mib")
        return [
            beside_floor(
                "memory_idle_mib", "operator's memory idle, MiB", (found("memory_idle_mib"), bare_idle), goal=120
            ),
            beside_floor("memory_loaded_mib", loaded, (found("memory_loaded_mib"), bare_loaded), goal=160),
            figure("memory_per_workflow_kib", "… growth for each more, KiB", found("memory_per_workflow_kib"), goal=10),
        ]

    def _steps_of(self, kind: Kind) -> list[float]:
        return [ms for found in self.details.get(f"steps {kind}", ()) for ms in found["step_ms"]]

    def _rate(self, kind: Kind) -> float | None:
        seconds = self._median(f"throughput {kind}", "seconds")
        return None if seconds is None else self._sizes.workflows / seconds * 60

    def _median(self, name: str, field: str) -> float | None:
        found = self.details.get(name)
        return statistics.median(each[field] for each in found) if found else None


def _ratio(ours: float | None, baseline: float | None) -> tuple[float, float] | None:
    return None if ours is None or baseline is None else (ours / baseline, 1.0)
