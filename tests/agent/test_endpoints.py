"""The agent's endpoints: probes that never need the broker, a token for what changes a worker, exact metrics."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.stage import Stage
from celery_patterns import protocol
from servers import TOKEN, RedisServer, Worker, eventually, redis_server


@pytest.fixture(scope="module")
def shared(redis: RedisServer) -> Iterator[tuple[Stage, Worker]]:
    with ExitStack() as stack:
        stage = Stage(broker=redis, results=redis, stack=stack)
        arguments = ["--max-tasks-per-child", "1"]
        env = {protocol.ENV_POOL: "shop/images"}
        yield stage, stack.enter_context(stage.worker(concurrency=2, arguments=arguments, env=env))


def samples(worker: Worker) -> dict[str, float]:
    status, text = worker.request(protocol.PATH_METRICS)
    assert status == 200
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_metrics_are_exact_though_every_task_has_a_process_of_its_own(shared: tuple[Stage, Worker]) -> None:
    stage, worker = shared
    published = {protocol.PUBLISHED_AT_HEADER: float(stage.store.time()[0])}
    for index in range(12):
        stage.send_plain("examples.add", index, 1, headers=published)
    for index in range(3):
        stage.send(stage.identity("fail", index), "examples.fail", "x")
    first = stage.send(stage.identity("once"), "examples.add", 1, 1)
    eventually(lambda: stage.claim(first).get("state") == protocol.CLAIM_DONE, within=20)
    stage.send(first, "examples.add", 1, 1)
    eventually(
        lambda: worker.state().finished == {"SUCCESS": 13, "FAILURE": 3, "DROPPED": 1},
        within=20,
        what=lambda: str(worker.state()),
    )
    found = samples(worker)
    assert found['celery_agent_tasks_finished_total{task="examples.add",state="SUCCESS"}'] == 13
    assert found['celery_agent_tasks_finished_total{task="examples.fail",state="FAILURE"}'] == 3
    assert found['celery_agent_task_delay_seconds_count{task="examples.add"}'] == 12
    assert found['celery_agent_task_runtime_seconds_count{task="examples.add"}'] == 13
    assert found["celery_agent_claims_dropped_total"] == 1
    assert found["celery_agent_slots"] == 2
    assert found["celery_agent_draining"] == 0
    info = next(name for name in found if name.startswith("celery_agent_info"))
    assert 'pool="shop/images"' in info


def test_names_of_celery_exporter_are_exact_too(stage: Stage) -> None:
    """Every child is recycled after one task, or killed by it; celery-exporter's dashboards find its names."""
    with stage.worker(concurrency=2, arguments=["--max-tasks-per-child", "1"], name="w@pod-1") as worker:
        for index in range(5):
            stage.send_plain("examples.add", index, 1)
        stage.send_plain("examples.fail", "x")
        stage.send_plain("test.die", "lost")
        stage.send_plain("examples.sleep", 30, time_limit=0.3)
        stage.send_plain("test.retry_once", "x")
        stage.send_plain("test.reject")
        stage.send_plain("examples.add", 1, 1, expires=-1)
        expected = {"SUCCESS": 6, "FAILURE": 3, "RETRY": 1, "REJECTED": 1, "REVOKED": 1}
        eventually(lambda: worker.state().finished == expected, within=30, what=lambda: str(worker.state()))
        found = samples(worker)
        assert worker.state().active == 0

    def of(event: str, task: str, exception: str = "") -> float:
        labels = f'name="{task}",hostname="pod-1",queue_name="{stage.queue}"'
        return found[f"celery_task_{event}_total{{{labels}" + (f',exception="{exception}"}}' if exception else "}")]

    assert of("received", "examples.add") == 5, "a message that has expired is no task"
    assert (of("started", "examples.add"), of("succeeded", "examples.add"), of("revoked", "examples.add")) == (5, 5, 1)
    assert of("failed", "examples.fail", "RuntimeError") == 1
    assert of("failed", "test.die", "WorkerLostError") == 1
    assert of("failed", "examples.sleep", "TimeLimitExceeded") == 1
    assert (of("received", "test.retry_once"), of("started", "test.retry_once")) == (2, 2)
    assert (of("retried", "test.retry_once"), of("succeeded", "test.retry_once")) == (1, 1)
    assert of("rejected", "test.reject") == 1
    runtime = f'name="examples.add",hostname="pod-1",queue_name="{stage.queue}"'
    assert found[f"celery_task_runtime_count{{{runtime}}}"] == 5
    assert found[f'celery_task_runtime_bucket{{{runtime},le="+Inf"}}'] == 5
    assert 0 < found[f"celery_task_runtime_sum{{{runtime}}}"] < 5
    assert found['celery_worker_up{hostname="pod-1"}'] == 1
    assert found['celery_worker_tasks_active{hostname="pod-1"}'] == 0


def test_text_is_what_prometheus_reads(shared: tuple[Stage, Worker]) -> None:
    """Read by Prometheus' own parser: every metric has one help, one type, and its samples stand together."""
    _, worker = shared
    families = list(text_string_to_metric_families(worker.request(protocol.PATH_METRICS)[1]))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}
    assert all(family.documentation for family in families)


@pytest.mark.parametrize(
    ("token", "status", "sentence"),
    [
        pytest.param(None, 401, "this endpoint needs the header Authorization: Bearer <the pool's token>", id="none"),
        pytest.param("", 401, "this endpoint needs the header Authorization: Bearer <the pool's token>", id="empty"),
        pytest.param("wrong", 403, "the token is not this pool's", id="wrong"),
        pytest.param(TOKEN + "x", 403, "the token is not this pool's", id="too long"),
        pytest.param("pässword".encode().decode("latin-1"), 403, "the token is not this pool's", id="not ASCII"),
    ],
)
def test_changing_a_worker_needs_the_token(
    shared: tuple[Stage, Worker], token: str | None, status: int, sentence: str
) -> None:
    _, worker = shared
    for path in (protocol.PATH_DRAIN, protocol.PATH_RESUME):
        got, body = worker.request(path, post=True, token=token)
        assert (got, json.loads(body)) == (status, {"error": sentence})
    assert not worker.state().draining


def test_token_is_read_again_when_its_file_changes(shared: tuple[Stage, Worker]) -> None:
    _, worker = shared
    file = worker.directory / "token"
    file.write_text("another\n")
    assert worker.request(protocol.PATH_RESUME, post=True)[0] == 403
    assert worker.request(protocol.PATH_RESUME, post=True, token="another")[0] == 200
    file.unlink()
    assert worker.request(protocol.PATH_RESUME, post=True, token="another")[0] == 403
    file.write_text(TOKEN)
    assert worker.request(protocol.PATH_RESUME, post=True)[0] == 200


def test_wrong_paths_and_methods_name_the_right_ones(shared: tuple[Stage, Worker]) -> None:
    _, worker = shared
    status, body = worker.request("/nowhere")
    assert status == 404
    assert json.loads(body) == {
        "error": "there is nothing at GET /nowhere; known: "
        "/healthz/startup, /healthz/ready, /healthz/live, /state, /metrics"
    }
    assert worker.request(protocol.PATH_DRAIN)[0] == 404, "a GET must not drain"
    assert worker.request(protocol.PATH_STATE, post=True)[0] == 404


@pytest.mark.parametrize("lines", ["Content-Length: 5000", "Content-Length: x", "Transfer-Encoding: chunked"])
def test_large_or_unmeasured_bodies_are_refused(shared: tuple[Stage, Worker], lines: str) -> None:
    _, worker = shared
    assert raw(worker, f"POST {protocol.PATH_DRAIN} HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n").startswith("HTTP/1.0 413 ")


def raw(worker: Worker, request: str) -> str:
    host, _, port = worker.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.encode())
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    return answer.decode()


def test_silent_client_is_cut_off(shared: tuple[Stage, Worker]) -> None:
    _, worker = shared
    assert raw(worker, "GET /state HT") == ""


def test_worker_without_a_token_file_refuses_changes(stage: Stage) -> None:
    with stage.worker(pool="solo", env={protocol.ENV_AGENT_TOKEN_FILE: ""}) as worker:
        status, body = worker.request(protocol.PATH_DRAIN, post=True)
        assert status == 403
        assert "CELERY_AGENT_TOKEN_FILE" in json.loads(body)["error"]


def test_probes_do_not_need_the_broker(stage: Stage, stack: ExitStack) -> None:
    with redis_server() as broker:
        other = Stage(broker=stage.broker, results=stage.results, stack=stack, broker_url=broker.url())
        with other.worker() as worker:
            broker.stop()
            eventually(lambda: "Connection to broker lost" in worker.log() or "Cannot connect" in worker.log())
            for path in (protocol.PATH_STARTUP, protocol.PATH_READY, protocol.PATH_LIVE, protocol.PATH_STATE):
                assert worker.request(path)[0] == 200, path
            assert worker.drain().draining
            eventually(lambda: worker.state().drained)
            broker.start()
            sent = other.record(other.identity(), queue="unheard")
            eventually(lambda: worker.state().drained)
            worker.resume()
            other.record(sent)
            other.wait_ledger(sent.task_id, "finish", within=20)


def test_worker_that_never_reached_its_broker_is_alive_but_not_started(stage: Stage, stack: ExitStack) -> None:
    other = Stage(broker=stage.broker, results=stage.results, stack=stack)
    with other.worker(broker="redis://127.0.0.1:1/0", wait_ready=False) as worker:
        eventually(lambda: worker.request(protocol.PATH_LIVE)[0] == 200, what=worker.log)
        assert worker.request(protocol.PATH_STARTUP) == (503, '{"started": false}')
        assert worker.request(protocol.PATH_READY) == (503, '{"ready": false, "draining": false}')
        worker.kill()


def test_busy_solo_worker_answers(stage: Stage) -> None:
    with stage.worker(pool="solo") as worker:
        sent = stage.record(stage.identity(), 1.5)
        stage.wait_ledger(sent.task_id, "start")
        assert worker.request(protocol.PATH_LIVE)[0] == 200
        assert worker.state().active == 1
        assert worker.drain().draining
        assert stage.ledger()[sent.task_id]["finish"] == 0, "it answered only after the task"
        eventually(lambda: worker.state().drained)


def test_port_is_free_as_soon_as_the_main_process_is_gone(stage: Stage) -> None:
    """Children hold no copy of the listening socket."""
    with stage.worker(concurrency=2) as worker:
        port = int(worker.address.rpartition(":")[2])
        inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if _port(line) == port}
        inodes |= {
            line.split()[9] for line in Path("/proc/net/tcp6").read_text().splitlines()[1:] if _port(line) == port
        }
        assert len(inodes) == 1

        def holders() -> set[int]:
            return {pid for pid in (worker.pid, *worker.children()) if inodes & set(_sockets(pid))}

        eventually(lambda: holders() == {worker.pid}, what=lambda: str(holders()))


def _port(line: str) -> int | None:
    """Return the local port of a listening socket's line."""
    fields = line.split()
    return int(fields[1].rpartition(":")[2], 16) if fields[3] == "0A" else None


def _sockets(pid: int) -> list[str]:
    links = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()]
    return [match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))]
