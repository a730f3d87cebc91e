"""Talking to one cluster through kubectl, with a kubeconfig that is always named and never looked up."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness.commands import run
from harness.errors import HarnessError

_REQUEST_WITHIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Kubectl:
    """A kubectl for one cluster.

    Attributes:
        program: The kubectl to run.
        kubeconfig: The only kubeconfig it sees.
    """

    program: Path
    kubeconfig: Path

    def raw(self, path: str) -> str:
        """Return the answer to one GET request, without asking anything else of the server.

        Raises:
            HarnessError: The server did not answer, or answered with an error.
        """
        return self._run("get", "--raw", path)

    def get(self, *what: str) -> dict[str, Any]:
        """Return an object or a list as the server describes it.

        Raises:
            HarnessError: It is not there, or the server did not answer.
        """
        document: dict[str, Any] = json.loads(self._run("get", *what, "-o", "json"))
        return document

    def apply(self, manifest: str) -> None:
        """Apply a manifest, YAML or JSON.

        Raises:
            HarnessError: The server refused it, or did not answer.
        """
        self._run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest)

    def answers(self, path: str) -> bool:
        """Say whether one GET request succeeds."""
        try:
            self.raw(path)
        except HarnessError:
            return False
        return True

    def _run(self, *arguments: str, stdin: str | None = None) -> str:
        seconds = f"{_REQUEST_WITHIN.total_seconds():.0f}s"
        home = self.kubeconfig.parent
        own = (f"--kubeconfig={self.kubeconfig}", f"--cache-dir={home}/kubectl-cache", f"--request-timeout={seconds}")
        # Neither another cluster nor somebody's preferences and proxies may slip in through the environment.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "KUBECTL_KUBERC": "false"}
        return run(
            (str(self.program), *own, *arguments), within=_REQUEST_WITHIN * 3, stdin=stdin, environment=environment
        )


def node_is_ready(nodes: dict[str, Any]) -> bool:
    """Say whether a list of nodes has at least one, and all are Ready. Pure."""
    items = nodes.get("items", [])
    return bool(items) and all(_is_ready(item.get("status", {}).get("conditions", [])) for item in items)


def _is_ready(conditions: list[dict[str, str]]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def deployment_is_available(deployment: dict[str, Any]) -> bool:
    """Say whether a Deployment runs everything it should, in its latest form. Pure."""
    status = deployment.get("status", {})
    return bool(
        status.get("observedGeneration") == deployment["metadata"]["generation"]
        and status.get("availableReplicas", 0) >= deployment["spec"]["replicas"] > 0,
    )


def dns_is_available(kubectl: Kubectl) -> bool:
    """Say whether the cluster's DNS server runs; it has the same name in kind and on our own node.

    Raises:
        HarnessError: The server did not answer, or there is no such Deployment.
    """
    return deployment_is_available(kubectl.get("deployment", "coredns", "--namespace=kube-system"))
