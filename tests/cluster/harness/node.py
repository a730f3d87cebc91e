"""A real Kubernetes node on this machine, without a container engine: starting and stopping it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from string import Template

from harness import cgroups, debian, host, network
from harness.addresses import API_PORT, DNS_SERVICE
from harness.build import build, build_coredns, build_pause
from harness.certificates import make_certificates, write_kubeconfigs
from harness.commands import run
from harness.errors import HarnessError
from harness.identity import Record, kubectl_for, mark, new_id
from harness.kubectl import Kubectl, dns_is_available, node_is_ready
from harness.layout import HARNESS, Layout
from harness.node_commands import NodeProgram, control_plane, node_agents
from harness.node_files import node_file_texts
from harness.processes import ProcessRecord, end, identify, start
from harness.programs import CONTAINERD_PROGRAMS, HELM_PROGRAM, KUBE
from harness.progress import Progress, Step
from harness.waiting import wait_until

_API_WITHIN = timedelta(seconds=90)
_READY_WITHIN = timedelta(seconds=120)
"""A start takes about ten seconds on two idle cores; these bounds are for a machine that also compiles something."""

_IMPORT_WITHIN = timedelta(minutes=5)
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FORWARDER = "forward"


class Node:
    """The node of one layout."""

    def __init__(self, layout: Layout, progress: Progress) -> None:
        self._layout = layout
        self._progress = progress
        self._processes = ProcessRecord(layout.run / "processes.json")

    def up(self) -> None:
        """Start the node, from nothing if need be, and return when it is Ready and its DNS answers.

        Raises:
            HarnessError: Something is missing or did not start in time; the message names the log.
        """
        self._require_root()
        debian.install(self._layout, self._progress, debian.missing_for_node())
        kube = build(self._layout, self._progress, KUBE)
        containerd = build(self._layout, self._progress, CONTAINERD_PROGRAMS)
        helm = build(self._layout, self._progress, HELM_PROGRAM)
        pause, pause_name = build_pause(self._layout, self._progress)
        coredns, coredns_name = build_coredns(self._layout, self._progress)
        self.down()
        with self._progress.step("Starting the node") as step:
            self._prepare(pause_name)
            self._start_forwarder()
            path = f"{containerd}:{_SYSTEM_PATH}"
            self._start_programs(control_plane(self._layout, kube=kube, containerd=containerd), path)
            self._link_clients(kube / "kubectl", helm / "helm")
            record = Record(
                id=new_id(),
                backend="node",
                kubectl=str(self._layout.clients / "kubectl"),
                helm=str(self._layout.clients / "helm"),
            )
            kubectl = kubectl_for(self._layout, record)
            self._wait(self._containerd_answers, "containerd", "containerd", step, within=_API_WITHIN)
            for archive in (pause, coredns):
                self.import_image(archive)
            self._wait(lambda: kubectl.answers("/readyz"), "the API server", "kube-apiserver", step, within=_API_WITHIN)
            self._start_programs(node_agents(self._layout, kube=kube), path)
            self._apply_manifests(kubectl, coredns_name)
            mark(kubectl, record.id)
            self._wait_until_ready(kubectl, step)
            record.write(self._layout)

    def healthy(self) -> bool:
        """Say whether the node runs completely: every program, the API server, the Node itself and its DNS."""
        record = Record.read(self._layout)
        processes = self._processes.read()
        if record is None or not processes or not all(process.alive() for process in processes):
            return False
        try:
            kubectl = kubectl_for(self._layout, record)
            return node_is_ready(kubectl.get("nodes")) and dns_is_available(kubectl)
        except HarnessError:
            return False

    def programs(self) -> dict[str, bool]:
        """Return which programs were started, and whether each is alive."""
        return {process.name: process.alive() for process in self._processes.read()}

    def down(self) -> None:
        """End the node and remove everything of it but the cache; what is not there is passed over."""
        self._require_root()
        if not (self._layout.state.exists() or self._layout.run.exists() or network.namespace_exists(self._layout)):
            return
        with self._progress.step("Stopping the node"):
            self._end_processes()
            for point in network.mounts_below(self._layout.state, self._layout.run):
                run(("umount", "--lazy", point))
            network.remove_namespace(self._layout)
            cgroups.remove_cgroups()
            host.restore(self._layout)
            for folder in (self._layout.run, self._layout.state):
                shutil.rmtree(folder, ignore_errors=True)
            self._require_gone()

    def import_image(self, archive: Path) -> None:
        """Make the image in an archive known to the node."""
        run((*self._ctr(), "images", "import", str(archive)), within=_IMPORT_WITHIN)

    def has_image(self, name: str) -> bool:
        """Say whether the node knows an image by this full name."""
        return name in run((*self._ctr(), "images", "list", "--quiet")).split()

    def client_command(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """Return a command line that runs a command where Services, Pods and their names can be reached."""
        # A mount namespace of its own lets the command see the cluster's resolver file in place of the host's.
        script = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        private = ("unshare", "--mount", "--propagation=private", "--", "sh", "-c", script)
        return network.inside(self._layout, *private, f"{self._layout.state}/resolv-client.conf", *command)

    def _ctr(self) -> tuple[str, ...]:
        program = build(self._layout, self._progress, CONTAINERD_PROGRAMS) / "ctr"
        return (str(program), "--address", str(self._layout.containerd_socket), "--namespace", "k8s.io")

    def _containerd_answers(self) -> bool:
        with contextlib.suppress(HarnessError):
            run((*self._ctr(), "version"), within=timedelta(seconds=5))
            return True
        return False

    def _prepare(self, pause_name: str) -> None:
        host.remember(self._layout)
        for folder in ("kubelet", "pod-logs", "volume-plugins"):
            (self._layout.state / folder).mkdir(parents=True, exist_ok=True)
        self._layout.run.mkdir(parents=True, exist_ok=True)
        for name, text in node_file_texts(self._layout, pause_image=pause_name).items():
            target = self._layout.state / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        make_certificates(self._layout.certificates)
        network.make_namespace(self._layout)
        cgroups.make_cgroups()

    def _start_forwarder(self) -> None:
        with network.listen_on_loopback() as listener:
            port: int = listener.getsockname()[1]
            write_kubeconfigs(self._layout, port=port)
            descriptor = listener.fileno()
            forward = (sys.executable, "-I", f"{HARNESS}/forward.py", str(descriptor), "127.0.0.1", str(API_PORT))
            self._start(_FORWARDER, forward, keep_open=(descriptor,))

    def _start_programs(self, programs: tuple[NodeProgram, ...], path: str) -> None:
        for program in programs:
            self._start(program.name, program.command, environment={"PATH": path, "HOME": "/root"})

    def _start(
        self,
        name: str,
        command: tuple[str, ...],
        *,
        environment: dict[str, str] | None = None,
        keep_open: tuple[int, ...] = (),
    ) -> None:
        command = network.inside(self._layout, *command)
        log = self._log(name)
        self._processes.add(start(name, command, log=log, environment=environment, keep_open=keep_open))

    def _link_clients(self, kubectl: Path, helm: Path) -> None:
        self._layout.clients.mkdir(parents=True, exist_ok=True)
        for program in (kubectl, helm):
            (self._layout.clients / program.name).symlink_to(program)

    def _apply_manifests(self, kubectl: Kubectl, coredns_name: str) -> None:
        template = Template((HARNESS / "manifests" / "coredns.yaml").read_text(encoding="utf-8"))
        kubectl.apply(template.substitute(COREDNS_IMAGE=coredns_name, DNS_ADDRESS=DNS_SERVICE))

    def _wait_until_ready(self, kubectl: Kubectl, step: Step) -> None:
        self._wait(lambda: node_is_ready(kubectl.get("nodes")), "the Node to be Ready", "kubelet", step)
        self._wait(lambda: dns_is_available(kubectl), "the cluster's DNS (kube-system/coredns)", "kubelet", step)

    def _wait(
        self,
        true: Callable[[], bool],
        what: str,
        program: str,
        step: Step,
        *,
        within: timedelta = _READY_WITHIN,
    ) -> None:
        def tick() -> None:
            step.update(f"waiting for {what}")
            for process in self._processes.read():
                if not process.alive():
                    log = self._log(process.name)
                    raise HarnessError(f"{process.name} ended while it was waited for {what}. See {log}")

        def look() -> bool:
            # One unanswered request is no news while a node starts; the deadline and the log say what is wrong.
            with contextlib.suppress(HarnessError):
                return true()
            return False

        wait_until(look, within=within, what=what, logs=(self._log(program),), tick=tick)

    def _log(self, program: str) -> Path:
        return self._layout.logs / f"{program}.log"

    def _end_processes(self) -> None:
        """End what would start other things first, then containers with their shims, then everything left."""
        recorded = {process.name: process for process in self._processes.read()}
        makers = ("kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy")
        end((recorded[name] for name in makers if name in recorded), grace=timedelta(seconds=5))
        end(cgroups.processes(), grace=timedelta(seconds=0))
        if network.namespace_exists(self._layout):
            found = (identify("inside", pid) for pid in network.pids_inside() if pid != os.getpid())
            end((process for process in found if process is not None), grace=timedelta(seconds=3))
        end(recorded.values(), grace=timedelta(seconds=3))

    def _require_gone(self) -> None:
        left = [str(folder) for folder in (self._layout.run, self._layout.state) if folder.exists()]
        left += network.mounts_below(self._layout.run, self._layout.state)
        left += [process.name for process in self._processes.read() if process.alive()]
        if left:
            raise HarnessError(f"The node was stopped, but these are still there: {', '.join(left)}.")

    @staticmethod
    def _require_root() -> None:
        if os.geteuid() != 0:
            raise HarnessError(
                "Without a container engine (docker or podman) the node has to be started by root, because it makes "
                "network namespaces, mounts and control groups. Run `sudo -E make cluster-up`, or install Docker.",
            )
