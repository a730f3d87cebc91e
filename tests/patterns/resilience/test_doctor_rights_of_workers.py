"""A worker, its callers and the command do all they do with Redis users who have exactly the rights that doctor names.

The proof is Redis's own list of what it has denied (ACL LOG).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import common, entity

from celery_patterns import protocol
from celery_patterns.cli import needed_rights
from celery_patterns.tasks import install
from patterns.resilience.acl import add_user, denied, url_of
from patterns.resilience.stage import Stage
from servers import RedisKind, RedisServer, Worker, celery_worker, eventually, redis_server

queue: Any = entity.Queue
broadcast: Any = common.Broadcast
LEASE_SECONDS = 3
BROKER_DB, RESULT_DB, STORE_DB = 4, 1, 3
PREFIXES = {"none": {}, "prefixes": {"ENTITLED_PREFIX": "shop:", "ENTITLED_RESULTS_PREFIX": "shop_"}}

DOCTORS_OWN = {"acl|whoami", "client|list", "config|get", "info", "scan"}
"""What doctor looks at beyond what is needed; it says that it could not."""

ANSWERS = {
    "plain": 1,
    "group": [0, 1, 2],
    "chord": [0, 1, 2],
    "nested": [0, 1, 2],
    "failed chord": "ChordError",
    "retry": 1,
    "late retry": 1,
    "eta": "eta",
    "workflow": 1,
    "broadcast": "all",
    "idempotent": ["o1", "o1"],
    "singleton": ["ann", "ann"],
    "coalesced": ["TaskRevokedError", "bob", "bob"],
    "rate": ["t"] * 6,
    "budget": ["f", 2],
    "progress": 3,
    "payload": 6000,
    "circuit": ["Flaky", "Flaky", "paid"],
    "bulkhead": [0, 1, 2],
    "batch": ["a", "again", "ValueError", "b"],
    "letter": "ValueError",
    "killed": "WorkerLostError",
}


@dataclass
class Rightful:
    """A Redis whose users have exactly what is needed, and an application that connects as them."""

    redis: RedisServer
    env: dict[str, str]
    blobs: Path

    def worker(self, **options: Any) -> Any:
        """Start a worker with the agent."""
        return celery_worker(
            broker=self.env["CELERY_BROKER_URL"],
            backend=self.env["CELERY_RESULT_BACKEND"],
            app="entitled:app",
            python_path=Stage.APPS,
            env={**self.env, protocol.ENV_AGENT_LEASE: str(LEASE_SECONDS)},
            talkative=True,
            **options,
        )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run Python in a process of its own, with the users' URLs."""
        return subprocess.run(
            [sys.executable, *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=Stage.APPS,
            env={**os.environ, **self.env},
        )

    def command(self, *arguments: str) -> Any:
        """Run ``celery-patterns`` on the application, and return what it says as JSON."""
        done = self.run("-m", "celery_patterns.cli", *arguments, "-A", "entitled:app", "--json")
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module", params=PREFIXES.values(), ids=list(PREFIXES))
def rightful(redis_kind: RedisKind, request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Rightful]:
    with redis_server(kind=redis_kind) as server:
        prefixes: dict[str, str] = request.param
        described = Celery("shop", set_as_current=False, broker=server.url(BROKER_DB), backend=server.url(RESULT_DB))
        described.conf.broker_transport_options = {"global_keyprefix": prefixes.get("ENTITLED_PREFIX", "")}
        described.conf.result_backend_transport_options = {
            "global_keyprefix": prefixes.get("ENTITLED_RESULTS_PREFIX", "")
        }
        described.conf.task_queues = [queue("celery"), queue("lonely", routing_key="lonely"), broadcast("news")]
        with install(described, store=server.url(STORE_DB)) as app:
            add_user(server, "broker", needed_rights.of_broker(app, BROKER_DB))
            add_user(server, "results", needed_rights.of_results(app))
            add_user(server, "store", needed_rights.of_store(app))
        blobs = tmp_path_factory.mktemp("blobs")
        env = {
            "CELERY_BROKER_URL": url_of(server, "broker", BROKER_DB),
            "CELERY_RESULT_BACKEND": url_of(server, "results", RESULT_DB),
            "CELERY_PATTERNS_STORE_URL": url_of(server, "store", STORE_DB),
            "CELERY_PATTERNS_BLOB_URL": f"file://{blobs}",
            **prefixes,
        }
        yield Rightful(server, env, blobs)


@pytest.fixture(scope="module")
def worker(rightful: Rightful) -> Iterator[Worker]:
    with rightful.worker(concurrency=4, queues="celery,news") as worker:
        yield worker


def test_nothing_that_tasks_and_their_callers_do_is_denied(rightful: Rightful, worker: Worker) -> None:
    answers = rightful.blobs / "answers.json"
    done = rightful.run("entitled.py", str(answers))
    assert done.returncode == 0, done.stderr + worker.log()
    found = json.loads(answers.read_text())
    for unordered in ("coalesced", "nested"):
        found[unordered].sort(key=str)
    assert found == ANSWERS
    assert denied(rightful.redis) == set()


def test_nothing_that_the_commands_do_is_denied(rightful: Rightful, worker: Worker) -> None:
    sent = rightful.run("-c", "import entitled; print(entitled.doomed.delay('again').id)").stdout.strip()
    letters = eventually(
        lambda: [each for each in rightful.command("dlq", "list")["letters"] if each["task_id"] == sent],
        what=worker.log,
    )
    letter = letters[0]["id"]
    assert rightful.command("dlq", "show", letter)["task"] == "doomed"
    replay = ("-m", "celery_patterns.cli", "dlq", "replay", "-A", "entitled:app", letter, "--set", 'args[0]="mended"')
    replayed = rightful.run(*replay)
    assert (replayed.returncode, replayed.stdout.splitlines()[-1]) == (0, "1 of 1 replayed."), replayed.stderr
    rightful.command("dlq", "purge", "--older", "1h")
    rightful.command("circuit", "open", "bank", "--for", "1m")
    assert [each["name"] for each in rightful.command("circuit", "list")] == ["bank"]
    rightful.command("circuit", "reset", "bank")
    explained = rightful.command("explain", sent)
    assert (explained["task"], [text for text in explained["unseen"] if "permission" in text]) == ("doomed", [])
    waits = "import entitled; print(entitled.plain.apply_async([1], countdown=600).id)"
    held = rightful.run("-c", waits).stdout.strip()
    explained = eventually(lambda: (said := rightful.command("explain", held))["where"] == "worker" and said)
    assert (explained["task"], explained["unseen"]) == ("plain", [])
    rightful.command("task", sent, held)
    rightful.command("bench", "--number", "10")
    assert denied(rightful.redis) == set()


def test_nothing_is_denied_when_a_worker_is_killed_and_another_drained(rightful: Rightful, worker: Worker) -> None:
    """What the killed one held goes back to its queue by the lease of another's agent, and runs where it is drained."""
    assert worker.ready()
    with rightful.worker(queues="lonely") as first:
        held = rightful.run("-c", "import entitled; print(entitled.wait.apply_async([2], queue='lonely').id)")
        eventually(lambda: held.stdout.strip() in first.log(), within=30, what=lambda: first.log() + held.stderr)
        first.kill()
    with rightful.worker(queues="lonely") as second:
        second.wait_state(lambda state: state.active == 1, within=30)
        assert second.drain().draining
        assert second.stop(within=60) == 0
        assert f"{held.stdout.strip()}] succeeded" in second.log()
        assert "is back in its queue: the worker that held it has been silent" in worker.log() + second.log()
    assert denied(rightful.redis) == set()


def test_doctor_without_rights_of_its_own_says_what_it_could_not_look_at(rightful: Rightful, worker: Worker) -> None:
    assert worker.ready()
    denied(rightful.redis)
    found = rightful.command("doctor")
    assert [each for each in found if each["level"] == "error"] == []
    assert {each["check"] for each in found if each["level"] == "unknown"} == {
        "acl",
        "consumers",
        "database",
        "server",
    }
    assert {"broker", "store", "results", "workers", "clock"} <= {e["check"] for e in found if e["level"] == "ok"}
    assert {command for _, _, command in denied(rightful.redis)} <= DOCTORS_OWN
