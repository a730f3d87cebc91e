"""What the tests of local mode share: manifests of stand-in workers, and bounded waiting."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery_operator.services.ports import Manifest
from servers_process import PATIENCE

STAND_IN = Path(__file__).parent / "stand_in.py"


async def until(check: Callable[[], Any], *, within: float = 15.0, what: str = "") -> Any:
    """Poll until ``check`` returns something true, and return it; fail after ``within`` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE * within
    while not (answer := check()):
        if loop.time() > deadline:
            raise AssertionError(f"not within {PATIENCE} times {within:g} s: {what or check}")
        await asyncio.sleep(0.02)
    return answer


def deployment(name: str, replicas: int, *arguments: str, **spec: Any) -> Manifest:
    """Return a Deployment whose container runs the stand-in for a worker with these arguments."""
    container: dict[str, Any] = {
        "name": "worker",
        "image": "none",
        "command": [sys.executable, "-S", str(STAND_IN)],
        "args": list(arguments),
        "ports": [{"name": "agent", "containerPort": 9540}],
        "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": "agent"}},
        **spec.pop("container", {}),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 10, "containers": [container], **spec},
            },
        },
    }


def gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has collected yet counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
