"""The worker image, extended with an application as its docs show it: what runs in it, and what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from harness.layout import CHECKOUT
from servers import eventually
from support import manifests
from support.cluster import Cluster
from support.playground import BACKEND, BROKER, Playground, worker_selector
from support.recovery import patterns_command, result_of, send
from support.release import Release
from support.shared_ground import ground_with_redis

IMAGE = "localhost/celery-operator-extended:dev"
APPLICATION = "shop.celery:app"
BUILD_SECONDS = 600.0
SOME_USER = 23456
"""As platforms choose that give each namespace a range of users of its own."""

LOOK_AT_PROCESSES = """
import json, os, pathlib
commands = {}
for folder in pathlib.Path("/proc").iterdir():
    if folder.name.isdigit() and int(folder.name) != os.getpid():
        words = (folder / "cmdline").read_text().split(chr(0))[:-1]
        commands[int(folder.name)] = [word.rpartition("/")[2] for word in words]
def writing(path):
    try:
        pathlib.Path(path, "intruder").write_text("x")
    except OSError as error:
        return error.strerror
print(json.dumps({
    "user": os.getuid(),
    "first": commands[1][:4],
    "shells": [words for words in commands.values() if words and words[0] in ("sh", "bash", "dash")],
    "writing": {path: writing(path) for path in ("/", "/opt/venv", "/app", "/tmp")},
}))
"""
LOOK_AT_FILES = """
import json, pathlib, shutil
def filled(path):
    return pathlib.Path(path).is_dir() and any(pathlib.Path(path).iterdir())
print(json.dumps({
    "tools": [tool for tool in ("gcc", "cc", "g++", "clang", "make", "ld", "cargo") if shutil.which(tool)],
    "left": [path for path in ("/tmp", "/build", "/var/lib/apt/lists", "/var/cache/apt/archives") if filled(path)],
    "operator": shutil.which("celery-operator"),
}))
"""


@pytest.fixture(scope="module")
def shop(cluster: Cluster, release: Release) -> Iterator[Playground]:
    """One worker of the extended image, which is built if it has changed."""
    command = (
        "env",
        f"PYTHONPATH={CHECKOUT / 'tests' / 'cluster'}",
        sys.executable,
        "-m",
        "harness",
        "images",
        "extended",
    )
    built = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    with ground_with_redis(cluster, release, "image") as ground:
        broker, backend = ({"url": ground.redis_url(database)} for database in (BROKER, BACKEND))
        app = manifests.app(ground.name, "shop", broker=broker, backend=backend)
        app["spec"] |= {"image": IMAGE, "application": APPLICATION}
        ground.api.create(app)
        template = {"spec": {"securityContext": {"runAsUser": SOME_USER}}}
        spec: dict[str, Any] = {"replicas": 1, "template": template}
        ground.api.create(manifests.pool(ground.name, "shop", app="shop", **spec))
        ground.wait_for_pods(1, worker_selector("shop"))
        yield ground


def worker(ground: Playground) -> str:
    return str(ground.worker_pods("shop")[0]["metadata"]["name"])


def test_task_of_the_users_application_runs(shop: Playground) -> None:
    sent = send("celery", "shop.describe", "cat.png", 30_000, broker_url=shop.redis().url(BROKER))
    eventually(
        lambda: result_of(shop, sent) == ("SUCCESS", "cat.png, 30.0 kB"), within=30, every=0.2, what="its result"
    )


def test_container_runs_celery_alone_and_without_rights(shop: Playground) -> None:
    command = ("python", "-c", LOOK_AT_PROCESSES)
    said = shop.cluster.kubectl("exec", "-n", shop.name, worker(shop), "-c", "worker", "--", *command)
    refused = "Read-only file system"
    assert json.loads(said) == {
        "user": SOME_USER,
        "first": ["python", "celery", "-A", APPLICATION],
        "shells": [],
        "writing": {"/": refused, "/opt/venv": refused, "/app": refused, "/tmp": None},
    }


def test_image_holds_no_compilers_and_nothing_that_its_building_left(shop: Playground) -> None:
    """A pod of its own: in a worker's a volume lies over /tmp."""
    container = {
        "name": "look",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", LOOK_AT_FILES],
        "securityContext": manifests.RESTRICTED_CONTAINER,
    }
    spec = {"restartPolicy": "Never", "securityContext": manifests.RESTRICTED_POD, "containers": [container]}
    metadata = {"name": "look", "namespace": shop.name}
    shop.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    shop.wait("Pod", "look", lambda it: it["status"]["phase"] in ("Succeeded", "Failed"), within=60, what="its end")
    said = shop.cluster.kubectl("logs", "look", "-n", shop.name)
    assert json.loads(said) == {"tools": [], "left": [], "operator": None}


def test_doctor_finds_broker_store_and_worker_and_no_error(shop: Playground) -> None:
    findings = patterns_command(shop, worker(shop), "doctor", app=APPLICATION)
    levels = {finding["check"]: finding["level"] for finding in findings}
    assert [finding for finding in findings if finding["level"] == "error"] == []
    assert {levels[check] for check in ("versions", "broker", "store", "results", "workers")} == {"ok"}, findings
