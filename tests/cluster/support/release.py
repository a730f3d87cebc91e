"""The operator as a Helm release: installed, looked at, wounded and removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from harness.layout import CHECKOUT
from servers import eventually
from support import manifests
from support.api import Manifest
from support.cluster import Cluster
from support.playground import ready

CHART = CHECKOUT / "helm" / "celery-operator"
CHART_NAME = "celery-operator"
NAME = "celery-operator"
NAMESPACE = "celery-operator-system"
DEMO_NAME = "celery"
DEMO_NAMESPACE = "celery-system"
"""As the examples' README installs it."""
CONTAINER = "operator"

LEASE_SECONDS = 15.0
"""How long a leader that has vanished holds up its successor, unless the operator is told otherwise."""
TAKEOVER_SECONDS = LEASE_SECONDS + 15.0
"""Until a successor leads: the lease, a look every second, and slack for a machine that runs everything."""
ROLLOUT_SECONDS = 120.0

IMAGES: dict[str, Any] = {
    "image": {"repository": "localhost/celery-operator", "tag": "dev", "pullPolicy": "IfNotPresent"},
    "workerImage": {"repository": "localhost/celery-worker", "tag": "dev"},
}
"""The values that name the images built from this checkout; no registry is ever asked."""
BUNDLED_REDIS: dict[str, Any] = {
    "redis": {
        "enabled": True,
        "image": {"repository": "localhost/celery-operator-redis", "tag": "dev", "pullPolicy": "IfNotPresent"},
    }
}


class Release:
    """One release of the chart; it need not be installed.

    Args:
        cluster: Where.
        name: What helm calls it.
        namespace: Where its pods are.
        turn: Entered to look after it, where several processes would at the same time.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str = NAME,
        namespace: str = NAMESPACE,
        *,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.cluster = cluster
        self._turn = turn
        self.name = name
        self.namespace = namespace
        self._values: Mapping[str, Any] | None = None

    # --------------------------------------------------------------------------------------------- what helm does

    def create_namespace(self) -> None:
        """Make the release's namespace, which takes only pods of the restricted Pod Security Standard."""
        self.cluster.api.request("POST", "/api/v1/namespaces", manifests.namespace(self.namespace))

    def upgrade(self, values: Mapping[str, Any] | None = None) -> str:
        """Install the chart, or bring the release to these values; return helm's words when all of it is ready."""
        said = self.cluster.helm(
            *("upgrade", "--install", self.name, str(CHART), "--namespace", self.namespace),
            *("--wait", f"--timeout={ROLLOUT_SECONDS:.0f}s", "--values", "-"),
            stdin=json.dumps({**IMAGES, **(values or {})}),
            within=ROLLOUT_SECONDS + 30,
        )
        self._values = values or {}
        return said

    def mend(self, values: Mapping[str, Any] | None = None) -> None:
        """Bring the release to these values, else its ordinary ones, if it is elsewhere, and wait until it works."""
        with self._turn():
            if self._values != (values or {}) or not self.installed():
                self.upgrade(values)
            self.wait_ready()

    def uninstall(self) -> None:
        """Remove the release and return when its pods are gone, too; nothing happens if there is none."""
        self._values = None
        self.cluster.helm(
            *("uninstall", self.name, "--namespace", self.namespace), *("--ignore-not-found", "--wait", "--timeout=90s")
        )
        # Helm waits for the Deployment only, and the garbage collector follows it.
        eventually(lambda: self.pods() == [], within=ROLLOUT_SECONDS, every=0.3, what="the end of the operator's pods")

    def installed(self) -> bool:
        """Say whether helm knows the release."""
        return self.cluster.try_helm("status", self.name, "--namespace", self.namespace).code == 0

    # --------------------------------------------------------------------------------------------- what is there

    @property
    def full_name(self) -> str:
        """The name of the operator's Deployment, Lease and service account."""
        return self.name if CHART_NAME in self.name else f"{self.name}-{CHART_NAME}"

    def pods(self) -> list[Manifest]:
        """Return the operator's pods."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=operator"
        return self.cluster.api.list("Pod", self.namespace, labelSelector=selector)

    def holder(self) -> str:
        """Return whom the Lease names: a pod's name and something random for each process in it."""
        lease = self.cluster.api.get("Lease", self.namespace, self.full_name) or {}
        return str(lease.get("spec", {}).get("holderIdentity") or "")

    def leader(self) -> str | None:
        """Return the name of the pod that leads, if it is there and ready."""
        holder = self.holder()
        if not holder:
            return None
        names = [pod["metadata"]["name"] for pod in self.pods() if ready(pod)]
        return next((name for name in names if holder.startswith(name)), None)

    def wait_ready(self, *, replicas: int = 2) -> str:
        """Return the leader's pod when exactly so many replicas are there, all ready, and one of them leads."""

        def look() -> str | None:
            pods = self.pods()
            return self.leader() if len(pods) == replicas and all(ready(pod) for pod in pods) else None

        what = f"{replicas} ready replicas of the operator, one of which leads"
        return str(eventually(look, within=ROLLOUT_SECONDS, every=0.3, what=lambda: f"{what}:\n{self.describe()}"))

    def wait_new_leader(self, former: str, *, within: float = TAKEOVER_SECONDS) -> str:
        """Return the pod that leads when the Lease names another process than the former holder."""

        def look() -> str | None:
            return self.leader() if self.holder() != former else None

        what = f"a leader after {former}"
        return str(eventually(look, within=within, every=0.2, what=lambda: f"{what}:\n{self.describe()}"))

    def exits(self) -> list[int]:
        """Return the exit status with which each container of the pods that are there ended last, if it ever did."""
        ended = [
            status["lastState"]["terminated"]
            for pod in self.pods()
            for status in pod["status"].get("containerStatuses", [])
            if "terminated" in status.get("lastState", {})
        ]
        return [int(each["exitCode"]) for each in ended]

    def describe(self) -> str:
        """Return pods, leases and the end of the logs, for messages."""
        shown = self.cluster.attempt("get", "pods,leases", "-n", self.namespace, "-o", "wide").said
        return f"{shown}\n{self.logs(lines=40)}"

    def log(self, pod: str) -> str:
        """Return what a pod's running container has said, whole."""
        return self.cluster.kubectl("logs", "-n", self.namespace, pod)

    def logs(self, *, lines: int = 200) -> str:
        """Return the end of the operator's logs, those of containers that ended just now included."""
        parts: list[str] = []
        for pod in self.pods():
            name = pod["metadata"]["name"]
            before = self.cluster.attempt("logs", "-n", self.namespace, name, "--previous", f"--tail={lines // 2}")
            if before.code == 0:
                parts.append(f"--- {name}, before its last restart\n{before.output}")
            now = self.cluster.attempt("logs", "-n", self.namespace, name, f"--tail={lines}")
            parts.append(f"--- {name}\n{now.said}")
        return "\n".join(parts)
