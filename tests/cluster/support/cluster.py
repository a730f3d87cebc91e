"""The own test cluster: kubectl, helm and the API, all with a kubeconfig that is named and never looked up."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.guard import current_layout, require_own_cluster
from harness.identity import Record
from harness.layout import Layout
from support.api import Api

COMMAND_SECONDS = 60.0
"""For a kubectl that does not wait for anything; on a loaded machine one takes a second or two."""

HELM_SECONDS = 180.0
"""For a helm that waits until everything of a release is ready, or gone."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    output: str
    errors: str

    @property
    def said(self) -> str:
        """Both outputs, for messages and for looking something up in them."""
        return f"{self.output}\n{self.errors}".strip()


@dataclass(frozen=True, slots=True)
class Cluster:
    """Programs and connections for one cluster."""

    kubeconfig: Path
    kubectl_program: Path
    helm_program: Path
    api: Api = field(repr=False)

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a client: nobody's preferences or other clusters slip in through it."""
        home = self.kubeconfig.parent
        path = f"{self.kubectl_program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {"PATH": path, "HOME": str(home), "KUBECONFIG": str(self.kubeconfig), "KUBECTL_KUBERC": "false"}

    def attempt(self, *arguments: str, stdin: str | None = None, within: float = COMMAND_SECONDS) -> Ended:
        """Run kubectl to its end, whatever that is."""
        return _run((str(self.kubectl_program), *arguments), stdin=stdin, within=within, environment=self.environment())

    def kubectl(self, *arguments: str, stdin: str | None = None, within: float = COMMAND_SECONDS) -> str:
        """Run kubectl and return its output. Raises AssertionError with its words if it fails."""
        return _succeeded(self.attempt(*arguments, stdin=stdin, within=within), "kubectl", arguments)

    def get_json(self, *arguments: str) -> dict[str, Any]:
        """Return what ``kubectl get`` finds, as JSON."""
        document: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return document

    def try_helm(self, *arguments: str, stdin: str | None = None, within: float = HELM_SECONDS) -> Ended:
        """Run helm to its end, whatever that is."""
        return _run((str(self.helm_program), *arguments), stdin=stdin, within=within, environment=self.environment())

    def helm(self, *arguments: str, stdin: str | None = None, within: float = HELM_SECONDS) -> str:
        """Run helm and return its output. Raises AssertionError with its words if it fails."""
        return _succeeded(self.try_helm(*arguments, stdin=stdin, within=within), "helm", arguments)


def open_own_cluster(layout: Layout | None = None) -> Cluster:
    """Return the cluster that the harness started on this machine, after asking whether it is that one.

    Raises harness.guard.ForeignClusterError for any other, before anything is written to it.
    """
    layout = layout or current_layout()
    kubeconfig = require_own_cluster(layout)
    record = Record.read(layout)
    assert record is not None, "require_own_cluster() returned without a record"
    return Cluster(kubeconfig, Path(record.kubectl), Path(record.helm), Api(kubeconfig))


def _run(command: tuple[str, ...], *, stdin: str | None, within: float, environment: dict[str, str]) -> Ended:
    try:
        result = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        shown = shlex.join(command)
        raise AssertionError(f"not finished after {within:g} s: {shown}\n{error.stdout!r}\n{error.stderr!r}") from error
    return Ended(result.returncode, result.stdout, result.stderr)


def _succeeded(ended: Ended, program: str, arguments: tuple[str, ...]) -> str:
    assert ended.code == 0, f"{program} {shlex.join(arguments)} ended with {ended.code}:\n{ended.said}"
    return ended.output
