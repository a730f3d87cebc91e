"""`make demo-cluster`: the chart installed with helm, an example applied, and its progress shown until it has ended.

Everything that is shown is read from the resources' status, as `kubectl get celery` would read it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from celery_operator.adapters.clock import SystemClock
from celery_operator.cli.picture import ASCII, PRETTY, draw_pool, draw_workflow, trouble_of
from celery_operator.cli.results import print_outcomes
from celery_operator.local.gauges import PoolGauge
from celery_operator.local.outcome import outcome_of
from harness.errors import HarnessError
from harness.layout import CHECKOUT
from harness.progress import Progress
from harness.waiting import Stopwatch
from support import manifests
from support.api import ApiError, Manifest
from support.cluster import Cluster, open_own_cluster
from support.release import BUNDLED_REDIS, DEMO_NAME, DEMO_NAMESPACE, Release

EXAMPLE = CHECKOUT / "examples" / "04-word-count.yaml"
NAMESPACE = DEMO_NAMESPACE
"""Of the release and of the example: there the bundled Redis has the name that the examples give it."""
RESOURCES = tuple(f"{kind}.celery-operator.dev" for kind in ("celeryworkflows", "celeryworkerpools", "celeryapps"))
"""By name: where the CRDs are new, kubectl remembers that there is no category `celery` for some minutes."""
WITHIN = timedelta(minutes=5)
IDLE_WITHIN = timedelta(minutes=1)
"""How long the pool may take to shrink to nothing after the work is done."""
LOOK_EVERY_SECONDS = 0.25
MOST_STEPS = 20


class Demo:
    """One demonstration on one cluster."""

    def __init__(self, cluster: Cluster, console: Console) -> None:
        self._cluster = cluster
        self._console = console
        self._release = Release(cluster, DEMO_NAME, NAMESPACE)
        self._signs = ASCII if console.options.ascii_only else PRETTY
        self._history: dict[str, list[PoolGauge]] = defaultdict(list)
        self._frame = 0
        self._clock = SystemClock()
        self._stopwatch = Stopwatch()
        self._told: dict[str, str] = {}

    def run(self) -> int:
        """Install, apply, show; return the exit status."""
        progress = Progress(self._console)
        with progress.step("Installing the chart: helm upgrade --install"):
            self._install()
        self._apply()
        ended = self._follow()
        print_outcomes(self._console, [outcome for outcome in map(outcome_of, self._workflows()) if outcome])
        self._say_what_next()
        return 0 if ended and all(o is not None and o.succeeded for o in map(outcome_of, self._workflows())) else 1

    def _install(self) -> None:
        namespace = json.dumps(manifests.namespace(NAMESPACE))
        self._cluster.kubectl("apply", "--server-side", "-f", "-", stdin=namespace)
        self._release.upgrade(BUNDLED_REDIS)
        # A workflow runs once: what an earlier demonstration left would be shown as its result.
        for resource in RESOURCES:
            self._cluster.kubectl("delete", resource, "--all", "-n", NAMESPACE, "--ignore-not-found")

    def _apply(self) -> None:
        text = EXAMPLE.read_text(encoding="utf-8")
        kinds = [f"{each['kind']}/{each['metadata']['name']}" for each in yaml.safe_load_all(text)]
        said = f"  kubectl apply -n {NAMESPACE} -f {EXAMPLE.relative_to(CHECKOUT)}: {', '.join(kinds)}"
        self._console.print(said, highlight=False, markup=False, soft_wrap=True)
        self._cluster.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=text)

    # ----------------------------------------------------------------------------------------------------- show

    def _follow(self) -> bool:
        """Show until the workflows have ended and the pools have shrunk; say whether they ended in time."""
        deadline = self._stopwatch.elapsed() + WITHIN
        if not self._console.is_terminal:
            return self._watch(deadline, self._tell)
        with Live(console=self._console, auto_refresh=False, vertical_overflow="crop") as live:
            return self._watch(deadline, lambda: live.update(self._picture(), refresh=True))

    def _watch(self, deadline: timedelta, show: Callable[[], None]) -> bool:
        idle_deadline: timedelta | None = None
        while self._stopwatch.elapsed() < (idle_deadline or deadline):
            show()
            if all(outcome_of(workflow) is not None for workflow in self._workflows()):
                idle_deadline = idle_deadline or self._stopwatch.elapsed() + IDLE_WITHIN
                if all(_is_empty(pool) for pool in self._pools()):
                    break
            time.sleep(LOOK_EVERY_SECONDS)
        return idle_deadline is not None

    def _picture(self) -> RenderableType:
        self._frame += 1
        parts: list[RenderableType] = []
        for workflow in self._workflows():
            now = self._clock.now()
            drawn = draw_workflow(workflow, self._signs, now=now, frame=self._frame, most_steps=MOST_STEPS)
            parts += [drawn, Text("")]
        for pool in self._pools():
            name = pool["metadata"]["name"]
            self._history[name].append(_gauge(pool))
            parts.append(draw_pool(name, self._history[name], self._signs, most=_most(pool)))
            if trouble := trouble_of(pool):
                parts.append(Text(f"  {trouble}", "yellow"))
        return Group(*parts)

    def _tell(self) -> None:
        """Print a line for what has changed: there is no terminal to draw on."""
        for workflow in self._workflows():
            status: Mapping[str, Any] = workflow.get("status") or {}
            phase, done = status.get("phase", "Pending"), status.get("progress", "0/0")
            running = [step["name"] for step in status.get("steps", ()) if step["state"] == "Running"]
            self._line(workflow, f"{phase}, {done} tasks done{', now ' + ', '.join(running) if running else ''}")
        for pool in self._pools():
            gauge = _gauge(pool)
            self._line(pool, f"{gauge.ready} of {gauge.desired} workers ready, {gauge.busy} slots busy")

    def _line(self, resource: Manifest, text: str) -> None:
        name = f"{resource['kind']}/{resource['metadata']['name']}"
        trouble = trouble_of(resource)
        whole = f"  {name}: {text}{'; ' + trouble if trouble else ''}"
        if self._told.get(name) != whole:
            self._told[name] = whole
            self._console.print(whole, highlight=False, markup=False, soft_wrap=True)

    def _say_what_next(self) -> None:
        environment = 'eval "$(PYTHONPATH=tests/cluster .venv/bin/python -m harness env)"'
        lines = (
            "",
            "It is all still there. Look around:",
            f"  {environment}",
            f"  kubectl get celery -n {NAMESPACE} -o wide",
            f"  kubectl describe celwf -n {NAMESPACE}",
            f"  kubectl get events -n {NAMESPACE} --sort-by=.lastTimestamp",
            f"  kubectl apply -n {NAMESPACE} -f examples/05-failure.yaml",
            f"  kubectl logs -n {NAMESPACE} -l app.kubernetes.io/component=operator --prefix",
            "and when you have seen enough:",
            "  make cluster-down",
        )
        self._console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)

    # -------------------------------------------------------------------------------------------------- observe

    def _workflows(self) -> list[Manifest]:
        return [{"kind": "CeleryWorkflow", **each} for each in self._cluster.api.list("CeleryWorkflow", NAMESPACE)]

    def _pools(self) -> list[Manifest]:
        return [{"kind": "CeleryWorkerPool", **each} for each in self._cluster.api.list("CeleryWorkerPool", NAMESPACE)]


def _gauge(pool: Manifest) -> PoolGauge:
    status: Mapping[str, Any] = pool.get("status") or {}
    slots: Mapping[str, int] = status.get("slots") or {}
    return PoolGauge(
        desired=int(status.get("desiredReplicas", 0)),
        ready=int(status.get("readyReplicas", 0)),
        busy=int(slots.get("busy", 0)),
        slots=int(slots.get("total", 0)),
        waiting=status.get("waiting"),
    )


def _is_empty(pool: Manifest) -> bool:
    status: Mapping[str, Any] = pool.get("status") or {}
    return int(status.get("replicas", 0)) == 0 and int(status.get("desiredReplicas", 0)) == 0


def _most(pool: Manifest) -> int:
    return int((pool["spec"].get("autoscaling") or {}).get("maxReplicas", 1))


def main() -> int:
    """Run the demonstration; what a person can act upon is shown without a traceback."""
    console = Console(highlight=False)
    try:
        return Demo(open_own_cluster(), console).run()
    except (ApiError, AssertionError, HarnessError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; what was started is still there")
        return 130


if __name__ == "__main__":
    sys.exit(main())
