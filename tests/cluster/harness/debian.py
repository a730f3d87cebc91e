"""The Debian packages that the node and the images need."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from harness.commands import run_logged, succeeds
from harness.errors import HarnessError
from harness.layout import Layout
from harness.node_files import CNI_PLUGINS
from harness.progress import Progress

_NEEDED_BY_NODE = {
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "gcc": "gcc",
    "ip": "iproute2",
    "iptables": "iptables",
    "mount": "mount",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "runc": "runc",
    "sysctl": "procps",
    f"{CNI_PLUGINS}/ptp": "containernetworking-plugins",
    "/usr/include/stdlib.h": "libc6-dev",
}
_NEEDED_BY_IMAGES = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}
_APT = {"DEBIAN_FRONTEND": "noninteractive"}


def missing_for_node() -> tuple[str, ...]:
    """Return the packages that the node lacks on this machine."""
    return _missing(_NEEDED_BY_NODE)


def missing_for_images() -> tuple[str, ...]:
    """Return the packages that building images lacks on this machine."""
    return _missing(_NEEDED_BY_IMAGES)


def _missing(needed: dict[str, str]) -> tuple[str, ...]:
    def present(name: str) -> bool:
        return Path(name).exists() if name.startswith("/") else shutil.which(name) is not None

    return tuple(sorted({package for name, package in needed.items() if not present(name)}))


def install(layout: Layout, progress: Progress, packages: tuple[str, ...]) -> None:
    """Install packages; the lists of packages are fetched only if the machine does not know these.

    Raises:
        HarnessError: This is no Debian, or apt-get failed.
    """
    if not packages:
        return
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise HarnessError(f"These packages are needed, and there is no apt-get to install them: {names}")
    log = layout.build_logs / "apt.log"
    with progress.step(f"Installing {names}") as step:
        if not succeeds(("apt-get", "install", "--simulate", "--no-install-recommends", *packages)):
            _apt_get(("update",), log, step.update)
        _apt_get(("install", "-y", "--no-install-recommends", *packages), log, step.update)


def _apt_get(arguments: tuple[str, ...], log: Path, show: Callable[[str], None]) -> None:
    last = ""

    def on_line(line: str | None) -> None:
        nonlocal last
        last = line or last
        show(last[:100])

    run_logged(("apt-get", *arguments), log=log, within=timedelta(minutes=10), on_line=on_line, environment=_APT)
