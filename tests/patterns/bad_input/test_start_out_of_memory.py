"""A worker that begins, or begins again, at a Redis broker without memory waits for some, and says so."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patterns.bad_input.stage import Stage
from patterns.stage import WITHIN
from servers import RedisKind, RedisServer, Worker, eventually, redis_server

pytestmark = pytest.mark.timeout(180)

WAITS = (
    "the broker's Redis has no memory: this worker cannot begin to take messages, and waits; raise maxmemory, or "
    "remove what fills it: command not allowed when used memory > 'maxmemory'"
)
GOES_ON = "the broker's Redis has memory again: messages are taken"
MESSAGES = 5


@pytest.fixture
def full(redis_kind: RedisKind) -> Iterator[RedisServer]:
    """A Redis that a test can fill."""
    with redis_server("--maxmemory-policy", "noeviction", kind=redis_kind) as server:
        yield server


def fill(server: RedisServer, *, full: bool) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1" if full else "0")


def waiting(server: RedisServer, stage: Stage) -> tuple[int, int]:
    """Return how many messages wait in the queue, and how many some worker holds."""
    with server.client() as client:
        found: Any = client
        return int(found.llen(stage.queue)), stage.held()


def seconds_of_cpu(worker: Worker) -> float:
    """Return what the main process has used."""
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def wait_said(worker: Worker, text: str, times: int = 1) -> None:
    eventually(lambda: worker.log().count(text) >= times, within=WITHIN, what=worker.log)


def send_some(stage: Stage) -> dict[str, str]:
    """Publish messages; return the ids of their tasks by what they note when they run."""
    return {key: stage.send("ok", key) for key in (f"{stage.queue}-{number}" for number in range(MESSAGES))}


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_worker_that_begins_without_memory_takes_nothing_and_begins_when_there_is_some(
    redis: RedisServer, full: RedisServer, pool: str
) -> None:
    with Stage.on(redis, full.url(0)) as stage:
        sent = send_some(stage)
        fill(full, full=True)
        with stage.worker(wait_ready=False, pool=pool) as worker:
            wait_said(worker, WAITS)
            assert "Traceback" not in worker.log()
            assert [worker.request(path)[0] for path in ("/healthz/ready", "/healthz/live")] == [503, 200]
            assert waiting(full, stage) == (MESSAGES, 0)
            before = seconds_of_cpu(worker)
            with pytest.raises(AssertionError, match="no second"):
                eventually(lambda: worker.log().count(WAITS) > 1, within=2.0, what="no second")
            assert seconds_of_cpu(worker) - before < 1.0, "it does not spin"
            fill(full, full=False)
            wait_said(worker, GOES_ON)
            for task_id in sent.values():
                stage.wait_done(task_id, worker)
            assert [stage.ran(key) for key in sent] == [1] * MESSAGES
            assert worker.request("/healthz/ready")[0] == 200
            eventually(lambda: waiting(full, stage) == (0, 0), within=WITHIN, what=worker.log)


def test_worker_that_waits_for_memory_ends_when_it_is_told_to(redis: RedisServer, full: RedisServer) -> None:
    with Stage.on(redis, full.url(0)) as stage:
        send_some(stage)
        fill(full, full=True)
        with stage.worker(wait_ready=False) as worker:
            wait_said(worker, WAITS)
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(WITHIN) == 0
            assert "Traceback" not in worker.log()
        assert waiting(full, stage) == (MESSAGES, 0)


def test_worker_whose_broker_comes_back_without_memory_keeps_what_it_runs_and_waits(
    redis: RedisServer, full: RedisServer
) -> None:
    with Stage.on(redis, full.url(0)) as stage, stage.worker(env={"STURDY_ACKS": "early"}) as worker:
        first = stage.send("wait", "held", "go")
        eventually(lambda: stage.ran("held"), within=WITHIN, what=worker.log)
        fill(full, full=True)
        with full.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        wait_said(worker, WAITS)
        stage.allow("go")
        stage.wait_done(first, worker)
        fill(full, full=False)
        wait_said(worker, GOES_ON)
        stage.wait_done(stage.send("ok", "after"), worker)
        assert (stage.ran("held"), stage.ran("after")) == (1, 1)


@pytest.mark.every_redis
def test_memory_that_vanishes_before_the_first_message_is_waited_for_too(redis: RedisServer, full: RedisServer) -> None:
    with Stage.on(redis, full.url(0)) as stage, stage.worker(app="fading:app", wait_ready=False) as worker:
        wait_said(worker, WAITS)
        assert worker.process.poll() is None
        fill(full, full=False)
        wait_said(worker, GOES_ON)
        stage.wait_done(stage.send("ok", "faded"), worker)
