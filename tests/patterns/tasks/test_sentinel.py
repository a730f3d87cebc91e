"""Workers with the agent behind a Sentinel: they and the patterns go on when the primary is another server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import RedisKind, celery_worker, eventually
from servers_sentinel import MASTER_NAME, Watched, sentinel_server

APPLICATION = f"""
from celery_patterns.tasks import Idempotent, PatternApp, RateLimit, Singleton, current_context
options = {{"master_name": "{MASTER_NAME}", "visibility_timeout": 3600}}
app = PatternApp("behind")
app.conf.update(broker_transport_options=options, result_backend_transport_options=options, task_acks_late=True)

@app.pattern_task(name="charge", once=Idempotent(key="{{order}}"), lock=Singleton(), rate=RateLimit("100/s"))
def charge(order: str) -> int:
    return current_context().fence
"""
CALL = """
import sys
from behind import charge
print(charge.delay(sys.argv[1]).get(timeout=30))
"""


@pytest.fixture
def watched(redis_kind: RedisKind) -> Iterator[Watched]:
    with sentinel_server(redis_kind) as watched:
        yield watched


def test_tasks_and_their_policies_go_on_after_a_failover(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "behind.py").write_text(APPLICATION)
    urls: dict[str, Any] = {"broker": watched.url(0), "backend": watched.url(1)}
    environment = {**os.environ, "CELERY_BROKER_URL": urls["broker"], "CELERY_RESULT_BACKEND": urls["backend"]}

    def call(order: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", CALL, order],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with celery_worker(**urls, app="behind:app", python_path=tmp_path) as worker:
        first = call("A-1")
        assert call("A-1") == first
        watched.primary.stop()
        eventually(lambda: watched.primary_port() == watched.replica.port, every=0.1, what="the failover")
        assert eventually(lambda: call("A-1"), within=30, what=worker.log) == first, "the claim has gone over"
        assert int(call("A-2")) > 0
        assert worker.ready()
