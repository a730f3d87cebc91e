"""A new password in the Secret: workers are replaced without losing a task, and a run goes on under the new one."""

from __future__ import annotations

from typing import Any

from servers import eventually
from support import manifests
from support.ledger import assert_each_once
from support.manifests import fan_out_and_total
from support.playground import BACKEND, BROKER, Playground, condition, worker_selector

OLD, NEW = "before", "after"
SLOTS = 4
ITEMS = 240
SECONDS = 0.4
"""At most ten items a second: the run is in its middle while the workers are replaced."""
ROLLED_SECONDS = 60.0
REMOVED_AFTER = 20
"""So many items have to be left when the old user is removed."""


def test_a_run_and_its_workers_go_on_when_the_password_is_another_one(ground: Playground) -> None:
    for user in (OLD, NEW):
        _allow(ground, user)
    ground.api.create(_secret(ground, OLD))
    broker, backend = (_from_secret(key) for key in ("broker", "backend"))
    ground.api.create(manifests.app(ground.name, "rotating", broker=broker, backend=backend))
    ground.create_pool(app="rotating", replicas=1, worker={"concurrency": SLOTS})
    (before,) = ground.wait_for_pods(1, worker_selector("pool"))
    ground.create_workflow(
        "fan-out", app="rotating", **fan_out_and_total(items=ITEMS, seconds=SECONDS, parallelism=SLOTS)
    )
    eventually(lambda: len(ground.ledger.started()) >= SLOTS, within=30, every=0.2, what="the first items")
    ground.patch("Secret", "servers", {"stringData": _secret(ground, NEW)["stringData"]})
    eventually(
        lambda: [pod["metadata"]["name"] != before for pod in ground.worker_pods()] == [True],
        within=ROLLED_SECONDS,
        every=0.2,
        what=lambda: f"a worker in the place of {before}:\n{ground.describe_pods()}",
    )
    ground.wait_for_pods(1, worker_selector("pool"))
    assert len(ground.ledger.finished()) < ITEMS - REMOVED_AFTER, "the run is nearly over: make it longer"
    ground.redis().ask(BROKER, lambda client: client.acl_deluser(OLD))
    ended = ground.wait_ended("fan-out", within=120)
    assert condition(ended, "Succeeded")["status"] == "True", ended["status"]
    assert ground.outputs("fan-out") == {"total": sum(range(ITEMS))}
    assert_each_once(ground.ledger.entries(), ground.task_ids("fan-out", "numbers", ITEMS))


def _allow(ground: Playground, user: str) -> None:
    rules: dict[str, Any] = {"enabled": True, "passwords": [f"+{user}"], "categories": ["+@all"], "keys": ["*"]}
    ground.redis().ask(BROKER, lambda client: client.acl_setuser(user, reset=True, channels=["*"], **rules))


def _secret(ground: Playground, user: str) -> dict[str, Any]:
    urls = {"broker": ground.redis_url(BROKER), "backend": ground.redis_url(BACKEND)}
    data = {key: url.replace("//", f"//{user}:{user}@", 1) for key, url in urls.items()}
    metadata = {"name": "servers", "namespace": ground.name}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


def _from_secret(key: str) -> dict[str, Any]:
    return {"urlFrom": {"secretKeyRef": {"name": "servers", "key": key}}}
