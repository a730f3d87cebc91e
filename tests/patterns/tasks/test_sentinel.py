"""Workers with agent and patterns behind a Sentinel: they go on after a failover."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import LOOPBACK, RedisKind, Worker, celery_worker, eventually, redis_server
from servers_sentinel import Watched, sentinel_server

MASTER = "shop"
APPLICATION = """
import json, os
from celery_patterns.tasks import Idempotent, PatternApp, RateLimit, Singleton, current_context
options = json.loads(os.environ["OPTIONS"])
app = PatternApp("behind")
app.conf.update(broker_transport_options=options, result_backend_transport_options=options, task_acks_late=True)

@app.pattern_task(name="charge", once=Idempotent(key="{order}"), lock=Singleton(), rate=RateLimit("100/s"))
def charge(order: str) -> int:
    return current_context().fence
"""
CALL = """
import sys
from behind import charge
print(charge.delay(sys.argv[1]).get(timeout=30))
"""


@dataclass
class Shop:
    """An application, and a worker of it."""

    folder: Path
    env: dict[str, str]
    worker: Worker

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run Python in a process of its own."""
        return subprocess.run(
            [sys.executable, *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            env={**os.environ, **self.env},
        )

    def charge(self, order: str) -> int:
        """Return the fence of the one call that has charged for an order."""
        done = self.run("-c", CALL, order)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def findings(self) -> list[dict[str, str]]:
        """Return what doctor says."""
        done = self.run("-m", "celery_patterns.cli", "doctor", "-A", "behind:app", "--json")
        found: list[dict[str, str]] = json.loads(done.stdout)
        return found

    def doctor(self) -> set[tuple[str, str]]:
        """Return what doctor finds wrong."""
        return {(each["check"], each["message"]) for each in self.findings() if each["level"] == "error"}


@contextmanager
def shop(folder: Path, broker: str, backend: str, **options: str) -> Iterator[Shop]:
    (folder / "behind.py").write_text(APPLICATION)
    variables = {"OPTIONS": json.dumps(options)}
    urls: dict[str, Any] = {"broker": broker, "backend": backend}
    with celery_worker(**urls, app="behind:app", python_path=folder, env=variables) as worker:
        yield Shop(folder, {**variables, "CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": backend}, worker)


def test_tasks_and_their_policies_go_on_after_a_failover(redis_kind: RedisKind, tmp_path: Path) -> None:
    with (
        redis_server("--repl-diskless-sync-delay", "0", kind=redis_kind) as primary,
        redis_server("--replicaof", f"{LOOPBACK} {primary.port}", kind=redis_kind) as replica,
        sentinel_server({MASTER: Watched(primary.port)}, kind=redis_kind) as sentinel,
        sentinel.client() as watching,
        shop(tmp_path, sentinel.url(0), sentinel.url(1), master_name=MASTER) as it,
    ):
        first = it.charge("A-1")
        assert it.charge("A-1") == first
        assert it.doctor() == set()
        eventually(lambda: len(watching.sentinel_slaves(MASTER)) == 1, every=0.1, within=30, what=sentinel.log)
        with replica.client() as behind:
            eventually(lambda: told(behind, "replication")["master_link_status"] == "up", within=30)
        primary.stop()
        eventually(lambda: sentinel.master(MASTER) == replica.port, every=0.1, within=30, what=sentinel.log)
        assert eventually(lambda: it.charge("A-1"), within=30, what=it.worker.log) == first, "the claim has gone over"
        assert it.charge("A-2") > first
        assert it.worker.ready()


def told(client: Any, section: str) -> Any:
    return client.info(section)
