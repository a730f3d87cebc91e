"""The control groups of the node's pods: below a root of their own, for both versions of the interface."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from harness.errors import HarnessError
from harness.layout import NODE
from harness.processes import Process, identify
from harness.waiting import became_true

_MOUNT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "cpuset", "memory", "pids")
"""What the kubelet cannot do without; `io` and `hugetlb` are taken where present."""


def unified() -> bool:
    """Say whether the machine uses cgroup v2 alone."""
    return (_MOUNT / "cgroup.controllers").exists()


def roots() -> tuple[Path, ...]:
    """Return the node's own group in each hierarchy, whether it exists or not."""
    if unified():
        return (_MOUNT / NODE,)
    return tuple(hierarchy / NODE for hierarchy in sorted(_MOUNT.iterdir()) if _is_hierarchy(hierarchy))


def _is_hierarchy(folder: Path) -> bool:
    # Combined controllers (`cpu,cpuacct`) have a symbolic link per controller beside the one real folder.
    return folder.is_dir() and not folder.is_symlink() and (folder / "cgroup.procs").exists()


def make_cgroups() -> None:
    """Make the node's own groups, so that the kubelet's `kubepods` can never be another kubelet's.

    Raises:
        HarnessError: A controller that pods need is missing.
    """
    if unified():
        _make_unified()
        return
    missing = [name for name in _CONTROLLERS if not (_MOUNT / name).exists()]
    if missing:
        raise HarnessError(f"No control group hierarchy is mounted below {_MOUNT} for: {', '.join(missing)}.")
    for root in roots():
        root.mkdir(exist_ok=True)
        # A fresh cpuset group has neither processors nor memory, and nothing can be put into it.
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (root / name).exists():
                (root / name).write_text((root.parent / name).read_text(encoding="utf-8"), encoding="utf-8")


def _make_unified() -> None:
    offered = set((_MOUNT / "cgroup.controllers").read_text(encoding="utf-8").split())
    missing = [name for name in _CONTROLLERS if name not in offered]
    if missing:
        raise HarnessError(f"{_MOUNT}/cgroup.controllers does not offer what pods need: {', '.join(missing)}.")
    wanted = " ".join(f"+{name}" for name in (*_CONTROLLERS, "io", "hugetlb") if name in offered)
    (_MOUNT / "cgroup.subtree_control").write_text(wanted, encoding="utf-8")
    root = _MOUNT / NODE
    root.mkdir(exist_ok=True)
    (root / "cgroup.subtree_control").write_text(wanted, encoding="utf-8")


def _groups() -> Iterator[Path]:
    """Yield every group below the node's roots and the roots themselves, the innermost first."""
    for root in roots():
        for folder, _, _ in os.walk(root, topdown=False):
            yield Path(folder)


def processes() -> tuple[Process, ...]:
    """Return every process in the node's groups: what runs in its containers."""
    pids: set[int] = set()
    for group in _groups():
        with contextlib.suppress(OSError):
            pids.update(int(pid) for pid in (group / "cgroup.procs").read_text(encoding="utf-8").split())
    found = (identify("container", pid) for pid in sorted(pids))
    return tuple(process for process in found if process is not None)


def remove_cgroups() -> None:
    """Kill what is left in the groups and remove them.

    Raises:
        HarnessError: A group could not be emptied.
    """
    for process in processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)

    def gone() -> bool:
        for group in _groups():
            with contextlib.suppress(OSError):
                group.rmdir()
        return not any(root.exists() for root in roots())

    if not became_true(gone, within=timedelta(seconds=15)):
        left = ", ".join(str(root) for root in roots() if root.exists())
        raise HarnessError(f"Could not remove the control groups {left}: processes in them do not end.")
