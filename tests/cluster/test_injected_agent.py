"""Workers of a plain image with Celery 5.5, to which an init container brings the agent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from celery import Celery

from harness.layout import CHECKOUT
from servers import eventually
from support.manifests import APPLICATION, pool
from support.playground import BACKEND, BROKER, Playground, worker_selector
from support.signals import Signals

STOCK_IMAGE = "localhost/celery-operator-stock:dev"
BUILD_SECONDS = 600.0
LEASE_SECONDS = 10
NAP_SECONDS = 20
LATE_SECONDS = 5
"""What the container takes to start again beyond its lease, and the test to look."""


@pytest.fixture(scope="module")
def stock_image() -> str:
    """The image, built and imported if the cluster lacks it."""
    command = [sys.executable, "-m", "harness", "images", "stock"]
    environment = {"PYTHONPATH": str(CHECKOUT / "tests" / "cluster")}
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return STOCK_IMAGE


@pytest.fixture
def shop(ground: Playground, stock_image: str) -> Playground:
    """A pool of one plain worker with an injected agent."""
    recovery = {"leaseSeconds": LEASE_SECONDS}
    application = {"image": stock_image, "application": "stock_shop:app", "recovery": recovery}
    assert application["application"] != APPLICATION
    ground.patch("CeleryApp", "app", {"spec": application})
    spec: dict[str, Any] = {"replicas": 1, "worker": {"agent": "Injected"}}
    ground.api.create(pool(ground.name, "pool", app="app", **spec))
    ground.wait_for_pods(1, worker_selector("pool"), within=60)
    return ground


def send(ground: Playground, name: str, *args: Any) -> str:
    redis = ground.redis()
    with Celery("producer", broker=redis.url(BROKER), set_as_current=False) as app:
        return str(app.send_task(name, args=args).id)


def outcome(ground: Playground, task_id: str) -> Any:
    text = ground.redis().ask(BACKEND, lambda client: client.get(f"celery-task-meta-{task_id}"))
    return None if text is None else json.loads(text)["result"]


def busy(ground: Playground) -> int | None:
    slots = ground.get("CeleryWorkerPool", "pool").get("status", {}).get("slots")
    return None if slots is None else int(slots["busy"])


def test_plain_worker_is_counted_and_drained(shop: Playground) -> None:
    shop.wait_condition("CeleryWorkerPool", "pool", "DrainSupported", "True", within=30)
    task_id = send(shop, "shop.nap", 15)
    eventually(lambda: busy(shop) == 1, within=30, every=0.3, what="the running task to be counted")
    shop.patch("CeleryWorkerPool", "pool", {"spec": {"replicas": 0}})
    eventually(lambda: shop.worker_pods() == [], within=60, every=0.5, what="the end of the worker")
    assert outcome(shop, task_id) == "rested", "it was interrupted"


def test_task_of_a_killed_worker_starts_again_within_its_lease(shop: Playground) -> None:
    """Every process of the container is killed; the next one gets the message when the lease is over."""
    task_id = send(shop, "shop.nap", NAP_SECONDS)
    eventually(lambda: busy(shop) == 1, within=30, every=0.3, what="the running task to be counted")
    [pod] = shop.worker_pods()
    signals = Signals(shop.cluster)
    try:
        signals.start()
        killed = time.monotonic()  # noqa: TID251 - a real container takes real time
        sent = signals.send("SIGKILL", namespace=shop.name, pod=pod["metadata"]["name"], container="worker")
        assert sent >= 2, "the main process and its child"
        bound = LEASE_SECONDS + 5 + NAP_SECONDS
        eventually(lambda: outcome(shop, task_id) == "rested", within=bound + 30, every=0.2, what="the task's end")
        assert time.monotonic() - killed <= bound + LATE_SECONDS  # noqa: TID251 - see above
    finally:
        signals.close()
