"""The same cluster in kind, where a container engine answers."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Literal

from harness.build import build
from harness.commands import run, run_logged, succeeds
from harness.errors import HarnessError
from harness.identity import Record, kubectl_for, mark, new_id
from harness.kubectl import dns_is_available, node_is_ready
from harness.layout import CHECKOUT, Layout
from harness.programs import HELM_PROGRAM, KIND_PROGRAM, KUBE
from harness.progress import Progress
from harness.waiting import wait_until

Engine = Literal["docker", "podman"]

CLUSTER = "celery-operator"
_NODE = f"{CLUSTER}-control-plane"
_ANSWER_WITHIN = timedelta(seconds=15)
_CREATE_WITHIN = timedelta(minutes=15)
"""Includes the first pull of kind's node image."""

_DNS_WITHIN = timedelta(minutes=3)


def answering_engine() -> Engine | None:
    """Return the container engine that answers; a client without its engine does not count."""
    engines: tuple[Engine, ...] = ("docker", "podman")
    for engine in engines:
        if shutil.which(engine) and succeeds((engine, "info"), within=_ANSWER_WITHIN):
            return engine
    return None


class Kind:
    """The kind cluster of one layout."""

    def __init__(self, layout: Layout, progress: Progress, engine: Engine) -> None:
        self._layout = layout
        self._progress = progress
        self._engine = engine

    def up(self) -> None:
        """Create the cluster.

        Raises:
            HarnessError: kind failed, or a cluster of that name exists that was not started here.
        """
        kind = self._kind()
        if self._exists(kind):
            if Record.read(self._layout) is None:
                raise HarnessError(
                    f"A kind cluster called {CLUSTER!r} exists that was not started by this harness. "
                    f"If nobody needs it: kind delete cluster --name {CLUSTER}",
                )
            self.down()
        # A container engine says nothing about these two, so what is on PATH is taken before anything is built.
        kubectl, helm = self._client("kubectl"), self._client("helm")
        record = Record(id=new_id(), backend="kind", kubectl=str(kubectl), helm=str(helm))
        # Known as ours before it is there, so that one whose creation fails half-way can be removed.
        record.write(self._layout)
        self._link_clients(kubectl, helm)
        log = self._layout.build_logs / "kind.log"
        with self._progress.step("Creating the kind cluster") as step:
            run_logged(
                (
                    *kind,
                    "create",
                    "cluster",
                    f"--name={CLUSTER}",
                    f"--config={CHECKOUT / 'kind-config.yaml'}",
                    f"--kubeconfig={self._layout.kubeconfig}",
                    "--wait=180s",
                ),
                log=log,
                within=_CREATE_WITHIN,
                on_line=lambda line: step.update(line or "waiting"),
                environment=self._environment(),
            )
            step.update("waiting for the cluster's DNS")
            wait_until(self.healthy, within=_DNS_WITHIN, what="the Node and kube-system/coredns", logs=(log,))
        mark(kubectl_for(self._layout, record), record.id)

    def down(self) -> None:
        """Delete the cluster if it is there, and its state."""
        kind = self._kind()
        if self._exists(kind):
            with self._progress.step("Deleting the kind cluster"):
                command = (*kind, "delete", "cluster", f"--name={CLUSTER}", f"--kubeconfig={self._layout.kubeconfig}")
                run(command, within=_CREATE_WITHIN, environment={**os.environ, **self._environment()})
        shutil.rmtree(self._layout.state, ignore_errors=True)

    def healthy(self) -> bool:
        """Say whether the cluster runs and its node is Ready, with DNS."""
        record = Record.read(self._layout)
        if record is None:
            return False
        try:
            kubectl = kubectl_for(self._layout, record)
            return node_is_ready(kubectl.get("nodes")) and dns_is_available(kubectl)
        except HarnessError:
            return False

    def programs(self) -> dict[str, bool]:
        """Return the one container that holds everything, and whether it runs."""
        return {_NODE: succeeds((self._engine, "exec", _NODE, "true"), within=_ANSWER_WITHIN)}

    def import_image(self, archive: Path) -> None:
        """Make the image in an archive known to the node."""
        command = (*self._kind(), "load", "image-archive", str(archive), f"--name={CLUSTER}")
        run(command, within=_CREATE_WITHIN, environment={**os.environ, **self._environment()})

    def has_image(self, name: str) -> bool:
        """Say whether the node knows an image by this full name."""
        return succeeds((self._engine, "exec", _NODE, "crictl", "inspecti", "--quiet", name))

    def client_command(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """Return a command line that runs one of the node's own commands where Services and Pods can be reached."""
        return (self._engine, "exec", "--interactive", _NODE, *command)

    def _kind(self) -> tuple[str, ...]:
        found = shutil.which("kind")
        return (found or str(build(self._layout, self._progress, KIND_PROGRAM) / "kind"),)

    def _client(self, name: Literal["kubectl", "helm"]) -> Path:
        found = shutil.which(name)
        if found:
            return Path(found)
        return build(self._layout, self._progress, KUBE if name == "kubectl" else HELM_PROGRAM) / name

    def _link_clients(self, *programs: Path) -> None:
        shutil.rmtree(self._layout.clients, ignore_errors=True)
        self._layout.clients.mkdir(parents=True)
        for program in programs:
            (self._layout.clients / program.name).symlink_to(program)

    def _exists(self, kind: tuple[str, ...]) -> bool:
        text = run((*kind, "get", "clusters"), environment={**os.environ, **self._environment()})
        return CLUSTER in text.split()

    def _environment(self) -> dict[str, str]:
        # kind also edits the kubeconfig that KUBECONFIG names, unless told otherwise.
        return {"KIND_EXPERIMENTAL_PROVIDER": self._engine, "KUBECONFIG": str(self._layout.kubeconfig)}
