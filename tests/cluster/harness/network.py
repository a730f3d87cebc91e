"""The node's network namespace."""

from __future__ import annotations

import socket
from pathlib import Path

from harness.addresses import NODE_ADDRESS
from harness.commands import run, succeeds
from harness.layout import NODE, Layout


def inside(layout: Layout, *command: str) -> tuple[str, ...]:
    """Return a command line that runs in the namespace.

    Not `ip netns exec`, which mounts a fresh /sys: the kubelet would find no control groups there.
    """
    return ("nsenter", f"--net={layout.namespace}", "--", *command)


def make_namespace(layout: Layout) -> None:
    """Make the namespace with the node's address and a default route, without which kube-proxy and the kubelet fail."""
    run(("ip", "netns", "add", NODE))
    # A bridge carries the address: kernels without the `dummy` interface type are common.
    for arguments in (
        ("link", "set", "lo", "up"),
        ("link", "add", "node0", "type", "bridge"),
        ("address", "add", f"{NODE_ADDRESS}/32", "dev", "node0"),
        ("link", "set", "node0", "up"),
        ("route", "add", "default", "dev", "node0"),
    ):
        run(inside(layout, "ip", *arguments))
    run(inside(layout, "sysctl", "-qw", "net.ipv4.ip_forward=1"))


def namespace_exists(layout: Layout) -> bool:
    """Say whether the namespace is there."""
    return layout.namespace.exists()


def pids_inside() -> tuple[int, ...]:
    """Return the processes in the namespace; its containers have namespaces of their own."""
    return tuple(int(pid) for pid in run(("ip", "netns", "pids", NODE)).split())


def remove_namespace(layout: Layout) -> None:
    """Remove the namespace with its interfaces, routes and packet filter rules."""
    if namespace_exists(layout):
        succeeds(("ip", "netns", "delete", NODE))
        layout.namespace.unlink(missing_ok=True)


def listen_on_loopback() -> socket.socket:
    """Return a socket that listens on a port of the host's loopback which nobody used."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.listen(128)
    return listener


def mounts_below(*folders: Path) -> tuple[str, ...]:
    """Return the mount points below some folders, the innermost first."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    points = [_unescape(line.split(" ")[4]) for line in text.splitlines()]
    found = {point for point in points if any(Path(point).is_relative_to(folder) for folder in folders)}
    return tuple(sorted(found, reverse=True))


def _unescape(point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point
