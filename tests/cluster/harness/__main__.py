"""`python -m harness`: start, use and stop the project's own Kubernetes cluster."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.backend import choose_backend
from harness.build import missing_programs
from harness.buildah import Buildah
from harness.errors import HarnessError
from harness.guard import ForeignClusterError, current_layout, require_own_cluster
from harness.helm import find_helm
from harness.identity import Record
from harness.image_list import DEFAULT_IMAGES
from harness.layout import Layout
from harness.load import chosen_images, load_images
from harness.node import Node
from harness.programs import HELM_PROGRAM
from harness.progress import Progress


@contextmanager
def _alone(layout: Layout, progress: Progress) -> Iterator[None]:
    """Keep two harnesses from starting or stopping the same cluster at the same time."""
    layout.cache.mkdir(parents=True, exist_ok=True)
    with (layout.cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step("Waiting for another harness on this machine to finish"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _up(layout: Layout, progress: Progress) -> None:
    backend = choose_backend(layout, progress)
    if backend.cluster.healthy() and _is_own(layout):
        progress.say(f"The cluster runs ({backend.name}); kubeconfig: {layout.kubeconfig}")
        return
    if backend.name == "node":
        missing = missing_programs(layout)
        minutes = sum(program.minutes for program in missing)
        if missing:
            names = ", ".join(program.name for program in missing)
            progress.say(f"To build first: {names} (once; about {minutes:.0f} minutes on two cores)")
    backend.cluster.up()
    require_own_cluster(layout)
    progress.say(f"The cluster is ready ({backend.name}); kubeconfig: {layout.kubeconfig}")


def _is_own(layout: Layout) -> bool:
    try:
        require_own_cluster(layout)
    except ForeignClusterError:
        return False
    return True


def _down(layout: Layout, progress: Progress) -> None:
    # Without a record only a node can have been left behind: its start may have failed before the record was written.
    if Record.read(layout) is not None:
        choose_backend(layout, progress).cluster.down()
    elif os.geteuid() == 0:
        Node(layout, progress).down()
    progress.say("No cluster of this harness runs.")


def _clean(layout: Layout, progress: Progress) -> None:
    _down(layout, progress)
    Buildah(layout, progress).remove_everything()
    shutil.rmtree(layout.cache, ignore_errors=True)
    progress.say(f"Removed the cache {layout.cache}")


def _images(layout: Layout, progress: Progress, names: Sequence[str]) -> None:
    images = chosen_images(names or DEFAULT_IMAGES)
    require_own_cluster(layout)
    load_images(layout, progress, choose_backend(layout, progress), images)


def _status(layout: Layout, progress: Progress, *, as_json: bool) -> int:
    record = Record.read(layout)
    backend = choose_backend(layout, progress)
    healthy = backend.cluster.healthy() and _is_own(layout)
    facts = {
        "ready": healthy,
        "backend": backend.name,
        "kubeconfig": str(layout.kubeconfig) if record else None,
        "clients": str(layout.clients) if record else None,
        "logs": str(layout.logs),
        "cache": str(layout.cache),
        "programs": backend.cluster.programs() if record else {},
    }
    if as_json:
        print(json.dumps(facts, indent=2))  # noqa: T201 - this is the command's result
    else:
        progress.say("ready" if healthy else "not ready" if record else "not started")
        for name, value in facts.items():
            progress.say(f"  {name}: {value}")
    return 0 if healthy else 1


def _environment(layout: Layout) -> None:
    require_own_cluster(layout)
    lines = (
        f"export KUBECONFIG={shlex.quote(str(layout.kubeconfig))}",
        f'export PATH={shlex.quote(str(layout.clients))}:"$PATH"',
    )
    print("\n".join(lines))  # noqa: T201 - this is the command's result


def _exec(layout: Layout, progress: Progress, command: tuple[str, ...]) -> None:
    require_own_cluster(layout)
    backend = choose_backend(layout, progress)
    if not command:
        raise HarnessError("Say what to run: python -m harness exec -- COMMAND [ARGUMENT...]")
    kubeconfig = layout.inner_kubeconfig if backend.name == "node" else layout.kubeconfig
    path = f"{layout.clients}:{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": path}
    line = backend.cluster.client_command(command)
    os.execvpe(line[0], line, environment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="build what is missing, and start the cluster if it does not run")
    commands.add_parser("down", help="stop the cluster and remove it; binaries and base images stay in the cache")
    commands.add_parser("clean", help="as down, and remove the cache")
    images = commands.add_parser("images", help="build images and import those that changed")
    images.add_argument("names", nargs="*", metavar="IMAGE", help=f"by default: {' '.join(DEFAULT_IMAGES)}")
    status = commands.add_parser("status", help="what runs; exit code 0 if the cluster is ready")
    status.add_argument("--json", action="store_true")
    commands.add_parser("helm", help="print the path of helm: the one on PATH, else one that is built for the cluster")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    commands.add_parser("env", help='print export lines: eval "$(python -m harness env)"')
    execute = commands.add_parser("exec", help="run a command where Services and Pods can be reached")
    execute.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return parser


def _run(arguments: argparse.Namespace, layout: Layout, progress: Progress) -> int:
    command: str = arguments.command
    if command == "status":
        return _status(layout, progress, as_json=arguments.json)
    if command == "kubeconfig":
        print(require_own_cluster(layout))  # noqa: T201 - this is the command's result
    elif command == "env":
        _environment(layout)
    elif command == "exec":
        words = tuple(arguments.arguments)
        _exec(layout, progress, words[1:] if words[:1] == ("--",) else words)
    elif command == "helm" and (shutil.which("helm") or not missing_programs(layout, (HELM_PROGRAM,))):
        print(find_helm(layout, progress))  # noqa: T201 - this is the command's result
    else:
        with _alone(layout, progress):
            if command == "helm":
                print(find_helm(layout, progress))  # noqa: T201 - this is the command's result
            elif command == "images":
                _images(layout, progress, arguments.names)
            else:
                {"up": _up, "down": _down, "clean": _clean}[command](layout, progress)
    return 0


def main() -> int:
    """Run one command; an error that a person can act upon is shown without a traceback."""
    progress = Progress()
    try:
        return _run(_parser().parse_args(), current_layout(), progress)
    except HarnessError as error:
        progress.say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        progress.say("interrupted; the next `up` or `down` clears up")
        return 130


if __name__ == "__main__":
    sys.exit(main())
