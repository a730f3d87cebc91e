"""What the node changes on the machine outside its own folders, and how that is undone."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from pathlib import Path

from harness.commands import succeeds
from harness.layout import Layout
from harness.network import mounts_below
from harness.node_files import POD_NETWORK

_KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""Those that a kubelet sets for the whole machine."""

_NAMESPACES = Path("/run/netns")
_CONTAINER_LOGS = Path("/var/log/containers")
_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
_POD_NETWORK_RESULTS = Path("/var/lib/cni/results")
_SHIM_SOCKETS = Path("/run/containerd/s")
_FOLDERS = (
    _NAMESPACES,
    _CONTAINER_LOGS,
    _DEVICE_PLUGINS,
    _DEVICE_PLUGINS.parent,
    _POD_NETWORK_RESULTS,
    _POD_NETWORK_RESULTS.parent,
    _SHIM_SOCKETS,
    _SHIM_SOCKETS.parent,
)
"""Folders whose paths are compiled into `ip`, the kubelet and containerd; each before the one it lies in."""


def remember(layout: Layout) -> None:
    """Keep what the machine looks like before the node changes it."""
    settings = {}
    for name in _KERNEL_SETTINGS:
        with contextlib.suppress(OSError):
            settings[name] = (Path("/proc/sys") / name).read_text(encoding="utf-8").strip()
    absent = [str(folder) for folder in _FOLDERS if not folder.exists()]
    layout.state.mkdir(parents=True, exist_ok=True)
    _file(layout).write_text(json.dumps({"settings": settings, "absent": absent}, indent=2), encoding="utf-8")


def restore(layout: Layout) -> None:
    """Undo what the node changed: kernel settings, links to logs, notes on addresses, folders that were not there."""
    for link in _CONTAINER_LOGS.glob("*") if _CONTAINER_LOGS.exists() else ():
        if link.is_symlink() and link.readlink().is_relative_to(layout.state):
            link.unlink()
    for result in _POD_NETWORK_RESULTS.glob(f"{POD_NETWORK}-*-eth0"):
        sandbox = result.name.removeprefix(f"{POD_NETWORK}-").removesuffix("-eth0")
        for each in (result, *_POD_NETWORK_RESULTS.glob(f"*-{sandbox}-lo")):
            each.unlink(missing_ok=True)
    try:
        remembered = json.loads(_file(layout).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    _remove_dead_sockets(since=_file(layout).stat().st_mtime)
    for name, value in remembered["settings"].items():
        setting = Path("/proc/sys") / name
        if setting.read_text(encoding="utf-8").strip() != value:
            setting.write_text(value, encoding="utf-8")
    for folder in map(Path, remembered["absent"]):
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder that the node brought, unless somebody else uses it by now."""
    if folder == _NAMESPACES and str(folder) in mounts_below(folder) and not any(folder.iterdir()):
        succeeds(("umount", str(folder)))
    if folder == _DEVICE_PLUGINS:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_dead_sockets(*, since: float) -> None:
    """Remove the sockets of containerd's shims that were killed: made since a moment, and nobody listens any more."""
    for path in _SHIM_SOCKETS.glob("*"):
        with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as client:
            if path.is_socket() and path.stat().st_mtime >= since:
                try:
                    client.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()


def _file(layout: Layout) -> Path:
    return layout.state / "host.json"
