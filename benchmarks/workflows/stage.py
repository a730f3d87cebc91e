"""The stage on the project's own cluster: a namespace, a Redis, both operators, workers, and the pod with the load."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.workflows import objects
from harness.layout import CHECKOUT
from support.cluster import Cluster, open_own_cluster

RELEASE = "bench"
READY_SECONDS = 120
PATIENCE_SECONDS = 900.0
"""How long tests that have an operator for all namespaces are waited for."""
LOAD_SECONDS = 700.0
"""One measurement; the script in the pod gives up by itself before."""


class StageError(Exception):
    """The benchmark cannot be run here now; the message says why and what to do."""


class Stage:
    """What the measurements are made on."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._say = say

    # ------------------------------------------------------------------------------------------------ up and down

    def build(self) -> None:
        """Create everything and wait until all of it is ready."""
        say = self._say
        self._await_solitude()
        self.remove()
        say(f"namespace {objects.NAMESPACE}: Redis, the bare operator, the load")
        self._apply([objects.namespace()])
        self._apply(objects.stage())
        self._kubectl("wait", "--for=condition=Established", f"crd/{objects.BARE_CRD}", "--timeout=30s")
        say(f"helm release {RELEASE}: the operator, for this namespace alone")
        owners = self._cluster.attempt("get", "crd", "celeryworkflows.celery-operator.dev")
        values = objects.release_values(install_crds=owners.code != 0)
        self._cluster.helm(
            *("upgrade", "--install", RELEASE, str(CHECKOUT / "helm" / "celery-operator")),
            *("--namespace", objects.NAMESPACE, "--wait", f"--timeout={READY_SECONDS}s", "--values", "-"),
            stdin=json.dumps(values),
        )
        ready = ("wait", "--for=condition=Ready", f"--timeout={READY_SECONDS}s", "-n", objects.NAMESPACE)
        self._kubectl(*ready, "pod", "redis", "bare", "load")
        say(f"{objects.WORKERS} workers with {objects.SLOTS} slots each")
        self._apply(objects.application())
        self._kubectl(*ready, "celeryworkerpool/bench")

    def remove(self) -> None:
        """Remove everything, in the order in which nothing hangs."""
        quietly = ("--ignore-not-found", "--wait=true", "--timeout=90s")
        kinds = "celeryworkflows,celeryworkerpools,celeryapps"
        self._cluster.attempt("delete", kinds, "--all", "-n", objects.NAMESPACE, "--wait=false")
        self._cluster.try_helm("uninstall", RELEASE, "-n", objects.NAMESPACE, "--ignore-not-found", "--wait")
        self._cluster.attempt("delete", "crd", objects.BARE_CRD, *quietly, within=100)
        self._cluster.attempt(
            "delete", "pods", "--all", "-n", objects.NAMESPACE, "--force", "--grace-period=0", "--wait=false"
        )
        self._cluster.attempt("delete", "namespace", objects.NAMESPACE, *quietly, within=100)

    def _await_solitude(self) -> None:
        """Wait while another operator serves all namespaces: it would run the same workflows. Raises StageError."""
        deadline = time.perf_counter() + PATIENCE_SECONDS
        found, told = self._company(), ""
        while found is not None and time.perf_counter() < deadline:
            if found != told:
                self._say(f"waiting for the operator {found} to go: it serves all namespaces, this one too")
                told = found
            time.sleep(1)
            found = self._company()
        if found is not None:
            raise StageError(
                f"the operator {found} serves all namespaces and would run these workflows too: uninstall that "
                "release, or try again when the tests that use it are over"
            )

    def _company(self) -> str | None:
        """Return namespace and name of an operator that serves all namespaces, if there is one."""
        found = self._cluster.get_json("deployments", "-A", "-l", "app.kubernetes.io/component=operator")
        for each in found["items"]:
            environment = each["spec"]["template"]["spec"]["containers"][0].get("env", [])
            served = next((e.get("value") for e in environment if e["name"].endswith("WATCH_NAMESPACES")), "")
            metadata = each["metadata"]
            if metadata["namespace"] != objects.NAMESPACE and not served:
                return f"{metadata['namespace']}/{metadata['name']}"
        return None

    # ------------------------------------------------------------------------------------------------ measurements

    def load(self, *arguments: object) -> dict[str, Any]:
        """Run the load script in its pod, with no other operator taking part; return what it measured.

        What another one has taken part in is cleared away and measured again when that is gone. Raises StageError.
        """
        while True:
            self._await_solitude()
            measured = self._load(*map(str, arguments))
            if self._company() is None:
                return measured
            self._say("another operator came meanwhile and took part: this is measured again")
            self._clear()

    def _load(self, *arguments: str) -> dict[str, Any]:
        command = ("exec", "-n", objects.NAMESPACE, "load", "--", "python", "/bench/load.py", *arguments)
        what = f"load {' '.join(arguments)}"
        show = None if sys.stderr.isatty() else subprocess.PIPE
        try:
            result = subprocess.run(
                (str(self._cluster.kubectl_program), *command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=show,
                text=True,
                timeout=LOAD_SECONDS,
                check=False,
                env=self._cluster.environment(),
            )
        except subprocess.TimeoutExpired:
            raise StageError(f"{what}: no end after {LOAD_SECONDS:g} s") from None
        if result.returncode != 0:
            raise StageError(f"{what} ended with {result.returncode}\n{(result.stderr or '')[-2000:]}")
        measured: dict[str, Any] = json.loads(result.stdout)
        return measured

    def clear(self) -> None:
        """Delete the finished workflows of both kinds, and what Redis holds of them."""
        self._await_solitude()
        self._clear()

    def _clear(self) -> None:
        self._load("clear", "workflow", "0")
        self._load("clear", "bare", "0")
        self._kubectl("exec", "-n", objects.NAMESPACE, "redis", "--", "redis-cli", "FLUSHALL")

    def end_bare(self) -> None:
        """End the bare operator: it listens to all results, which would cost in measurements that it has no part in."""
        self._kubectl("delete", "pod", "bare", "-n", objects.NAMESPACE, "--wait=true")

    def memory_mib(self, *, bare: bool = False) -> float:
        """Return the resident memory of an operator's process, in MiB."""
        pod = "bare" if bare else self._operator_pod()
        status = self._kubectl("exec", "-n", objects.NAMESPACE, pod, "--", "cat", "/proc/1/status")
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(resident.split()[1]) / 1024

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time that every pod of the stage has used so far, by pod."""
        pods = self._cluster.get_json("pods", "-n", objects.NAMESPACE)["items"]
        names = [pod["metadata"]["name"] for pod in pods if pod["metadata"]["name"] != "load"]
        return {name: self._pod_cpu(name) for name in sorted(names)}

    def _pod_cpu(self, pod: str) -> float:
        script = "cat /proc/[0-9]*/stat"
        lines = self._kubectl("exec", "-n", objects.NAMESPACE, pod, "--", "sh", "-c", script).splitlines()
        # Fields 14 and 15 after the name in parentheses, which may hold spaces: clock ticks of 10 ms.
        ticks = [line.rpartition(")")[2].split()[11:13] for line in lines]
        return sum(int(user) + int(system) for user, system in ticks) / 100

    def add_empty_pools(self, count: int) -> None:
        """Create pools without workers and wait until the operator has looked at each."""
        self._apply(objects.empty_pools(count))
        deadline = time.perf_counter() + READY_SECONDS
        while time.perf_counter() < deadline:
            pools = self._cluster.get_json("celeryworkerpools", "-n", objects.NAMESPACE)["items"]
            if all((pool.get("status") or {}).get("conditions") for pool in pools):
                return
            time.sleep(1)
        raise StageError(f"not all of {count} pools were looked at within {READY_SECONDS} s")

    def remove_empty_pools(self) -> None:
        """Delete them again."""
        self._kubectl("delete", "celeryworkerpools", "-n", objects.NAMESPACE, "-l", objects.EMPTY_LABEL)

    def kubernetes_version(self) -> str:
        """Return the API server's version."""
        return str(json.loads(self._kubectl("get", "--raw", "/version"))["gitVersion"])

    def _operator_pod(self) -> str:
        selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=operator"
        items = self._cluster.get_json("pods", "-n", objects.NAMESPACE, "-l", selector)["items"]
        return str(items[0]["metadata"]["name"])

    def _apply(self, manifests: list[objects.Manifest]) -> None:
        self._kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, manifests)))

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._cluster.kubectl(*arguments, stdin=stdin, within=READY_SECONDS + 30)


@contextmanager
def open_stage(say: Callable[[str], None], *, keep: bool) -> Iterator[Stage]:
    """Yield the stage; afterwards nothing of it is left, unless it is to be kept."""
    stage = Stage(open_own_cluster(), say)
    try:
        stage.build()
        yield stage
    finally:
        if not keep:
            say("removing the stage")
            stage.remove()
