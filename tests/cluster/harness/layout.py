"""Where the harness keeps its files, and why each place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NODE = "celery-operator-node"
"""Names everything the node leaves on a machine: its network namespace, control groups, state and sockets."""

HARNESS = Path(__file__).resolve().parent
CHECKOUT = HARNESS.parents[2]


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one user's cluster.

    Attributes:
        cache: Binaries, base images and the image builder's layers: costly, the same for every cluster, kept by `down`.
        state: What belongs to one cluster and lives exactly as long: keys together with the etcd data that they signed
            for, containers, logs, the kubeconfig. Removed by `down`.
        run: Sockets and process ids: meaningless after a reboot, so in a folder that a reboot empties.
    """

    cache: Path
    state: Path
    run: Path

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig for programs on the host; no other tool looks here."""
        return self.state / "kubeconfig"

    @property
    def inner_kubeconfig(self) -> Path:
        """The kubeconfig for programs inside the node's network namespace."""
        return self.state / "kubeconfig-inside"

    @property
    def record(self) -> Path:
        """What this machine knows of the cluster it started; see `identity.py`."""
        return self.state / "cluster.json"

    @property
    def clients(self) -> Path:
        """A folder with just kubectl and helm, for PATH."""
        return self.state / "clients"

    @property
    def certificates(self) -> Path:
        """Keys and certificates of the node's programs."""
        return self.state / "certificates"

    @property
    def logs(self) -> Path:
        """One log per program of the node."""
        return self.state / "logs"

    @property
    def build_logs(self) -> Path:
        """One log per program or image that was built."""
        return self.cache / "logs"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return self.run / "containerd.sock"

    @property
    def namespace(self) -> Path:
        """The node's network namespace, where `ip netns` keeps it."""
        return Path("/run/netns") / NODE


def layout_for(environment: Mapping[str, str], *, root: bool) -> Layout:
    """Return the folders for a user.

    Only root can run a node without a container engine, so only root's folders are system folders; somebody who may use
    a container engine keeps everything below their home.
    """
    home = Path(environment.get("HOME") or "/root")
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "celery-operator" / "cluster"
    if root:
        return Layout(cache=cache, state=Path("/var/lib") / NODE, run=Path("/run") / NODE)
    state = Path(environment.get("XDG_STATE_HOME") or home / ".local" / "state") / "celery-operator" / "cluster"
    return Layout(cache=cache, state=state, run=state / "run")
