"""Redis without memory, as broker and as result backend: the worker goes on, and nothing is lost silently."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from patterns.bad_input.stage import Stage
from patterns.stage import WITHIN
from servers import RedisKind, RedisServer, eventually, redis_server

pytestmark = pytest.mark.every_redis


@pytest.fixture
def full(redis_kind: RedisKind) -> Iterator[RedisServer]:
    """A Redis that a test can fill."""
    with redis_server("--maxmemory-policy", "noeviction", kind=redis_kind) as server:
        yield server


def fill(server: RedisServer, *, full: bool) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1" if full else "0")


@pytest.mark.one_redis
@pytest.mark.parametrize("acks", ["late", "early"])
def test_worker_on_a_broker_without_memory_finishes_what_it_holds_and_goes_on_later(
    redis: RedisServer, full: RedisServer, acks: str
) -> None:
    with Stage.on(redis, full.url(0)) as stage, stage.worker(env={"STURDY_ACKS": acks}) as worker:
        first = stage.send("wait", f"{acks}-first", f"{acks}-go")
        eventually(lambda: stage.ran(f"{acks}-first"), within=WITHIN, what=worker.log)
        more = [stage.send("ok", f"{acks}-{number}") for number in range(10)]
        eventually(lambda: worker.state().reserved >= 3, within=WITHIN, what=worker.log)
        fill(full, full=True)
        with pytest.raises(OperationalError, match="command not allowed when used memory > 'maxmemory'"):
            stage.send("ok", "refused")
        stage.allow(f"{acks}-go")
        said = "the broker's Redis has no memory: this worker takes no more messages until there is some; raise maxmem"
        eventually(lambda: said in worker.log(), within=WITHIN)
        worker.wait_state(lambda state: state.active + state.reserved == 0, within=WITHIN)
        with full.client() as client:
            assert client.llen(stage.queue) != 0, "it takes no more than the one it had taken already"
        fill(full, full=False)
        for task_id in (first, *more):
            stage.wait_done(task_id, worker)
        assert [stage.ran(f"{acks}-{number}") for number in range(10)] == [1] * 10
        eventually(lambda: stage.held() == 0, within=WITHIN, what=worker.log)
        assert "the broker's Redis has memory again" in worker.log()


TAKEN = """
import os, signal, sys
from kombu.connection import Connection
from celery_patterns.resilience import broker_memory
broker_memory.install()
prefix = {"global_keyprefix": "mine:"}
with Connection(sys.argv[1], transport_options=prefix) as connection, connection.channel() as channel:
    connection.SimpleQueue("q").put("x")
    channel.basic_consume("q", no_ack=False, callback=lambda message: None, consumer_tag="t")
    channel.client.config_set("maxmemory", 1)
    connection.drain_events(timeout=30)
    print(channel.client.llen("q"), channel.client.hlen("unacked"), len(channel.qos.unnoted), flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "free":
        channel.client.config_set("maxmemory", 0)
    channel.qos.restore_unacked()
    print(channel.client.llen("q"), channel.client.hlen("unacked"))
"""
"""Takes a message from a Redis that has no memory, and gives it back or is killed."""


def take(url: str, then: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TAKEN, url, then]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=40)


@pytest.mark.parametrize(("then", "waiting", "held"), [("free", 1, 0), ("full", 0, 1)])
def test_message_taken_without_memory_is_noted_and_goes_back_when_there_is_some(
    full: RedisServer, then: str, waiting: int, held: int
) -> None:
    done = take(full.url(), then)
    assert done.stdout == f"0 1 0\n{waiting} {held}\n", done.stderr
    assert "is lost" not in done.stderr
    assert ("cannot go back to its queue now, it stays in unacked until" in done.stderr) == (then == "full")


def test_message_taken_without_memory_outlives_its_worker(full: RedisServer) -> None:
    """Whoever comes next finds it when its visibility timeout or lease is over, as if there had been memory."""
    done = take(full.url(), "killed")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "0 1 0\n"), done.stderr
    fill(full, full=False)
    with full.client() as client:
        assert client.zcard("mine:unacked_index") == 1
    options = {"global_keyprefix": "mine:", "visibility_timeout": 0}
    with (
        Connection(full.url(), transport_options=options) as connection,  # type: ignore[no-untyped-call]
        connection.channel() as channel,
    ):
        channel.qos.restore_visible(interval=1)
        assert connection.SimpleQueue("q").get(timeout=60).payload == "x"


@pytest.mark.parametrize(("then", "waiting"), [("free", 1), ("full", 0)])
def test_message_that_could_not_be_noted_goes_back_or_into_the_log(full: RedisServer, then: str, waiting: int) -> None:
    """This user may run no scripts: the message is in no list of Redis, and who alone knows it says so at its end."""
    with full.client() as client:
        client.acl_setuser("plain", enabled=True, passwords=["+word"], keys=["*"], channels=["*"],
                           categories=["+@all"], commands=["-eval"])  # fmt: skip
    done = take(full.url().replace("//", "//plain:word@"), then)
    assert done.stdout == f"0 0 1\n{waiting} 0\n", done.stderr
    assert ("is lost: {'body'" in done.stderr) == (then == "full")
    assert (
        "cannot be noted (key unacked), and this worker takes no more messages until there is some; raise"
        in done.stderr
    )


def test_result_waits_until_there_is_memory(redis: RedisServer, full: RedisServer) -> None:
    """The task has run once, its message stays unacknowledged until the result is stored, and its slot waits."""
    with Stage.on(redis, redis.url(0)) as stage, stage.worker(backend=full.url(0)) as worker:
        fill(full, full=True)
        sent = stage.send("ok", "unstored")
        eventually(
            lambda: f"the result of task {sent} cannot be stored yet: Command # 1 (SETEX" in worker.log(),
            within=WITHIN,
            what=worker.log,
        )
        assert stage.held() == 1
        fill(full, full=False)
        with full.client() as client:
            results: Any = client
            stored = eventually(lambda: results.get(f"celery-task-meta-{sent}"), within=WITHIN, what=worker.log)
        assert b'"status": "SUCCESS"' in stored
        said = f"the result of task {sent} is stored now"
        eventually(lambda: said in worker.log(), within=WITHIN, what=worker.log)
        assert stage.ran("unstored") == 1
        stage.wait_idle(worker)
