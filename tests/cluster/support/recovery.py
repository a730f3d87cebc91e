"""Workers whose tasks kill them: their application and pools, and what the ledger says of each task's runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from support import manifests
from support.api import Manifest
from support.ledger import Entry
from support.playground import BACKEND, BROKER, LEDGER, Playground

MODULE = "recovery_tasks"
_SOURCE = Path(__file__).parents[1] / "apps" / f"{MODULE}.py"


def create_tasks(ground: Playground) -> None:
    """Create the ConfigMap with the tasks' module."""
    source = {f"{MODULE}.py": _SOURCE.read_text(encoding="utf-8")}
    metadata = {"name": "tasks", "namespace": ground.name}
    ground.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": source})


def create_app(ground: Playground, name: str, recovery: Mapping[str, int], *, broker_url: str | None = None) -> None:
    """Create a CeleryApp of these tasks; results are in the namespace's Redis."""
    broker = {"url": broker_url or ground.redis_url(BROKER)}
    app = manifests.app(ground.name, name, broker=broker, backend={"url": ground.redis_url(BACKEND)})
    app["spec"] |= {"application": f"{MODULE}:app", "recovery": dict(recovery)}
    ground.api.create(app)


def create_pool(ground: Playground, name: str, *, app: str, replicas: int, concurrency: int = 1) -> None:
    """Create a pool that consumes the queue of its own name, with the tasks where its image has nothing."""
    worker = {
        "name": "worker",
        "env": [{"name": "LEDGER_URL", "value": ground.redis_url(LEDGER)}],
        "volumeMounts": [{"name": "tasks", "mountPath": "/app"}],
    }
    volume = {"name": "tasks", "configMap": {"name": "tasks"}}
    spec: Manifest = {
        "queues": [{"name": name}],
        "replicas": replicas,
        "worker": {"concurrency": concurrency},
        "template": {"spec": {"containers": [worker], "volumes": [volume]}},
    }
    ground.api.create(manifests.pool(ground.name, name, app=app, **spec))


def send(queue: str, task: str, *args: Any, broker_url: str) -> str:
    """Publish a task as any application would; return its id."""
    with Celery("producer", broker=broker_url, set_as_current=False) as app:
        app.conf.update(broker_connection_timeout=5, task_ignore_result=True)
        if broker_url.startswith("amqp"):
            # Without it the message may still be on its way, through a forwarder that ends now.
            app.conf.broker_transport_options = {"confirm_publish": True}
        return str(app.send_task(task, args=args, queue=queue).id)


def result_of(ground: Playground, task_id: str) -> tuple[str, Any]:
    """Return state and result of a task; ``("PENDING", None)`` if there is none."""
    text = ground.redis().ask(BACKEND, lambda client: client.get(f"celery-task-meta-{task_id}"))
    stored = {"status": "PENDING", "result": None} if text is None else json.loads(text)
    return str(stored["status"]), stored["result"]


def patterns_command(ground: Playground, pod: str, *arguments: str, app: str = f"{MODULE}:app") -> Any:
    """Return the JSON that ``celery-patterns`` writes in a worker's pod."""
    command = ("celery-patterns", *arguments, "--app", app, "--json")
    return json.loads(ground.cluster.kubectl("exec", "-n", ground.name, pod, "-c", "worker", "--", *command))


@dataclass(frozen=True, slots=True)
class Runs:
    """When a task started and finished, in seconds since the epoch."""

    starts: tuple[float, ...]
    finishes: tuple[float, ...]


def runs_of(entries: Iterable[Entry], ids: Collection[str]) -> dict[str, Runs]:
    """Return the runs of these tasks, by id."""
    known = tuple(entries)

    def times(task_id: str, event: str) -> tuple[float, ...]:
        return tuple(entry.at for entry in known if (entry.id, entry.event) == (task_id, event))

    return {task_id: Runs(times(task_id, "start"), times(task_id, "finish")) for task_id in ids}
