"""Stopping and continuing the processes of a container, from a pod that sees the node's processes."""

from __future__ import annotations

from typing import Any

from support.cluster import Cluster
from support.manifests import WORKER_IMAGE
from support.playground import await_gone, delete_namespace

NAMESPACE = "celery-operator-signals"
POD = "signaller"

_SEND = """
import os, pathlib, signal, sys
number, container = getattr(signal, sys.argv[1]), sys.argv[2]
sent = []
for folder in pathlib.Path("/proc").iterdir():
    if folder.name.isdigit():
        try:
            if container in (folder / "cgroup").read_text():
                os.kill(int(folder.name), number)
                sent.append(folder.name)
        except (FileNotFoundError, ProcessLookupError):
            pass
print(len(sent))
"""


class Signals:
    """A pod in the node's process namespace. It names processes by the id of their container, and by nothing else."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def start(self) -> None:
        """Start the pod."""
        labels = {"celery-operator.dev/test": "true", "pod-security.kubernetes.io/enforce": "privileged"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
        self._cluster.api.request("POST", "/api/v1/namespaces", namespace)
        self._cluster.api.create(_pod())
        self._cluster.kubectl(
            "wait", "--for=condition=Ready", f"pod/{POD}", "-n", NAMESPACE, "--timeout=60s", within=90
        )

    def send(self, signal: str, *, namespace: str, pod: str, container: str) -> int:
        """Send a signal (``SIGSTOP``) to all processes of a running container; return how many there were."""
        found = self._cluster.api.get("Pod", namespace, pod)
        assert found is not None, f"pod {namespace}/{pod} is gone"
        statuses = {status["name"]: status for status in found["status"]["containerStatuses"]}
        identity = str(statuses[container]["containerID"]).partition("://")[2]
        assert len(identity) == 64, f"not the id of a container: {identity!r}"
        said = self._cluster.kubectl("exec", "-n", NAMESPACE, POD, "--", "python3", "-c", _SEND, signal, identity)
        return int(said)

    def close(self) -> None:
        """Remove the pod."""
        delete_namespace(self._cluster, NAMESPACE, wait=False)
        await_gone(self._cluster, NAMESPACE)


def _pod() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": NAMESPACE},
        "spec": {
            "hostPID": True,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "python",
                    "image": WORKER_IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", "import signal; signal.pause()"],
                    # Root may signal other users' processes; nothing else is asked for.
                    "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["KILL"]}},
                }
            ],
        },
    }
