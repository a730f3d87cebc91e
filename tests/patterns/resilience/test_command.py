"""The command ``celery-patterns`` on real servers: what people and scripts get from it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kombu.connection import Connection

from celery_patterns.cli.command import main
from celery_patterns.cli.tables import ago, table
from patterns.resilience.stage import Stage
from servers import RabbitServer, RedisKind, RedisServer, eventually, redis_server
from servers_kinds import program_of, version


@contextmanager
def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[None]:
    with monkeypatch.context() as patched:
        for name, value in variables.items():
            patched.setenv(name, value)
        yield


@pytest.fixture
def run(redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process; returns (status, output, errors)."""
    # The command writes its options into the environment, for the application that it loads.
    for name, url in (("BROKER_URL", 0), ("RESULT_BACKEND", 1), ("PATTERNS_STORE_URL", 3)):
        monkeypatch.setenv(f"CELERY_{name}", redis.url(url))

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def stage(redis: RedisServer) -> Iterator[Stage]:
    """A queue with three letters: two of one place, and one that is no task message."""
    with Stage.on(redis, redis.url(0)) as stage, stage.worker(concurrency=2) as worker:
        stage.send("fail", "a1")
        stage.wait_letters(1, what=worker.log)
        stage.send("fail", "a2", 7)
        stage.wait_letters(2, what=worker.log)
        stage.publish({"hello": 1}, serializer="json")
        stage.wait_letters(3, what=worker.log)
        yield stage


def test_letters_are_listed_shown_and_chosen(run: Any, stage: Stage) -> None:
    oldest, second, newest = stage.wait_letters(3)
    status, out, _ = run("dlq", "list", "--queue", stage.queue)
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["ID", "AGE", "QUEUE", "REASON", "TASK", "TRIES", "PLACE", "ERROR"]
    assert [line.split()[0] for line in lines[1:4]] == [newest.id, second.id, oldest.id]
    assert lines[4] == f"{stage.queue}: 3 dead letters"
    _, out, _ = run("dlq", "list", "--queue", stage.queue, "--hash", oldest.traceback_hash, "--json")
    assert [letter["id"] for letter in json.loads(out)["letters"]] == [second.id, oldest.id]
    status, out, _ = run("dlq", "show", oldest.id, "--json")
    shown = json.loads(out)
    assert (status, shown["arguments"], shown["task"], shown["attempts"]) == (0, [["a1"], {}], "fail", 2)
    status, out, _ = run("dlq", "show", newest.id)
    assert status == 0
    assert 'body            {"hello": 1}' in out.splitlines() or "not a task message" in out


def test_letter_is_mended_and_replayed_and_gone(run: Any, stage: Stage) -> None:
    letter = stage.wait_letters(3)[0]
    status, out, _ = run("dlq", "replay", letter.id, "--set", "kwargs.amount=42", "--set", 'args[0]="mended"')
    assert (status, out.splitlines()) == (0, [f"{letter.id}  to {stage.queue}", "1 of 1 replayed."])
    eventually(lambda: stage.state(letter.message.task_id) == "SUCCESS")
    assert stage.app.AsyncResult(letter.message.task_id).result == "mended"
    assert letter.id not in [each.id for each in stage.letters.scan(stage.queue)]
    stage.letters.keep(letter, "put back")


def test_patch_that_does_not_fit_sends_nothing(run: Any, stage: Stage) -> None:
    letter = next(each for each in stage.letters.scan(stage.queue) if each.reason == "failed")
    status, out, _ = run("dlq", "replay", letter.id, "--set", "args[7].x=1")
    assert status == 1
    assert "not sent: 'args[7].x=1': 7 is no position in a list of" in out
    assert letter.id in [each.id for each in stage.letters.scan(stage.queue)]


def test_purge_removes_what_is_chosen(run: Any, stage: Stage) -> None:
    status, out, _ = run("dlq", "purge", "--queue", stage.queue, "--reason", "invalid")
    assert (status, out) == (0, "1 dead letters removed.\n")
    assert run("dlq", "purge", "--queue", stage.queue, "--older", "7d")[1] == "0 dead letters removed.\n"


def test_wrong_use_is_told_with_its_status(run: Any, stage: Stage) -> None:
    assert run("dlq", "show", "1-1")[0] == 1
    assert run("dlq", "show", "no-id") == (
        1,
        "",
        "celery-patterns: there is no dead letter no-id in any queue; see celery-patterns dlq list\n",
    )
    status, _, error = run("dlq", "replay", "--queue", stage.queue)
    assert (status, error.startswith("celery-patterns: name letters by their ids")) == (2, True)
    status, _, error = run("dlq", "list", "-A", "nowhere:app")
    assert (status, "the application 'nowhere:app' cannot be loaded: ModuleNotFoundError" in error) == (2, True)
    status, _, error = run("circuit", "list", "--store", "redis://user:secret@127.0.0.1:1/0")
    assert (status, "127.0.0.1:1/0" in error, "secret" in error) == (3, True, False)
    with pytest.raises(SystemExit) as caught:
        run("dlq", "list", "--reason", "boredom")
    assert caught.value.code == 2


def test_circuits(run: Any, stage: Stage) -> None:
    stage.store.client.delete(*stage.store.client.keys("*:circuit:*"), "nothing")
    assert run("circuit", "list")[1] == "No circuit is in use.\n"
    assert run("circuit", "open", "pay", "--for", "3m", "--reason", "noon")[1] == "pay is open for 3m.\n"
    (state,) = json.loads(run("circuit", "list", "--json")[1])
    assert (state["name"], state["state"], state["forced"], state["reason"]) == ("pay", "open", True, "noon")
    assert re.search(r"^pay +open \(forced\) +\ds +3m +0 +0 +0 +noon$", run("circuit", "list")[1], re.MULTILINE)
    assert run("circuit", "reset", "pay")[1] == "pay is closed.\n"


def test_task_and_explain(run: Any, stage: Stage) -> None:
    sent = stage.send("fail", "explained", 9)
    (letter,) = eventually(lambda: [each for each in stage.letters.scan(stage.queue) if each.message.task_id == sent])
    status, out, _ = run("task", sent, "--json")
    assert (status, json.loads(out)[0]["state"]) == (0, "FAILURE")
    status, out, _ = run("explain", sent)
    assert status == 0
    assert f"It is a dead letter of {stage.queue} (failed): ValueError: the amount 9 is wrong" in out
    assert f"celery-patterns dlq show --queue {stage.queue} {letter.id}" in out
    assert run("task", "no-such-id")[0] == 1


def test_bench_measures_and_leaves_nothing(run: Any, stage: Stage) -> None:
    before = set(stage.store.client.keys("*"))
    status, out, _ = run("bench", "--number", "20", "--json")
    assert status == 0
    assert set(json.loads(out)) == {
        "PING",
        "circuit: allow and record",
        "bulkhead: enter and leave",
        "retry budget: one question",
    }
    assert set(stage.store.client.keys("*")) == before


def doctor(app: str, *, directory: Any, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run doctor on an application, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_")}
    return subprocess.run(
        [sys.executable, "-m", "celery_patterns.cli", "doctor", "-A", app, "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
        cwd=directory,
        env={**environment, **variables},
    )


def findings(out: str) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for each in json.loads(out):
        found.setdefault(each["check"], []).append((each["level"], each["message"]))
    return found


@pytest.mark.every_redis
def test_doctor_names_product_and_version_of_the_server(run: Any, redis_kind: RedisKind) -> None:
    """Valkey calls itself a Redis 7.2 as well, for clients that know no Valkey."""
    said = version(program_of(redis_kind))
    assert said is not None
    assert said[1].startswith(f"{redis_kind.major}.")
    found = findings(run("doctor", "--json")[1])
    assert found["version"] == [("ok", f"{redis_kind.product} {said[1]}")]


@pytest.mark.every_redis
def test_doctor_names_what_loses_tasks_on_redis(
    run: Any, redis_kind: RedisKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server("--maxmemory", "200mb", "--maxmemory-policy", "allkeys-lru", kind=redis_kind) as server:
        with server.client() as client:
            client.set("sessions:7", "of another application")
            execute: Any = client.execute_command
            execute("ACL", "SETUSER", "poor", "on", ">secret", "~*", "&*", "+@all", "-xadd", "-eval")
        url = f"redis://poor:secret@127.0.0.1:{server.port}/0"
        with environment(monkeypatch, CELERY_BROKER_URL=url, CELERY_RESULT_BACKEND=url):
            status, out, _ = run("doctor", "--json", "--store", url)
    found = findings(out)
    assert status == 1
    assert found["eviction"][0][0] == "error"
    assert "allkeys-lru" in found["eviction"][0][1]
    assert found["acl"][:3] == [
        ("error", "store: poor may not use EVAL, XADD"),
        ("warning", "poor may not use EVAL (needed by the agent's leases and a broker without memory)"),
        ("warning", "results: poor may not use EVAL (needed by the agent, for tasks of workflows)"),
    ]
    assert found["persistence"][0][0] == "warning"
    assert ("warning", "database 0 has 1 keys that are not Celery's, e.g. sessions:7") in found["database"]
    assert ("warning", "broker and results share one database") in found["database"]
    assert found["results"][0][0] == "ok"
    assert found["messages"] == [("ok", "a message written with 'json' is accepted")]
    assert "secret" not in out


def test_doctor_on_an_application(stage: Stage) -> None:
    urls = {"CELERY_BROKER_URL": stage.redis.url(0), "CELERY_RESULT_BACKEND": stage.redis.url(1)}
    done = doctor("shaky:app", directory=Stage.APPS, LEDGER_URL="redis://127.0.0.1:1/0", **urls)
    found = findings(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "visibility_timeout is 2 s, and these may run longer and then run twice: die" in found["visibility"][0][1]
    assert found["time-limit"][0][0] == "warning"
    assert found["workers"][0][0] == "ok"
    assert found["consumers"][0][1].startswith("1 wait for messages in database 0")


def test_doctor_finds_results_that_cannot_be_read(redis: RedisServer, tmp_path: Any) -> None:
    """As with Celery's own example for signed messages: written in one way, accepted in another."""
    (tmp_path / "mute.py").write_text(
        "from celery import Celery\n"
        "app = Celery('mute')\n"
        "app.conf.update(task_serializer='json', accept_content=['yaml'], result_serializer='json',\n"
        "                result_accept_content=['yaml'], task_reject_on_worker_lost=True)\n"
        "@app.task(name='x')\n"
        "def x(): pass\n"
    )
    urls = {"CELERY_BROKER_URL": redis.url(0), "CELERY_RESULT_BACKEND": redis.url(1)}
    done = doctor("mute:app", directory=tmp_path, **urls)
    assert done.returncode == 1, done.stderr
    found = findings(done.stdout)
    assert found["messages"] == [
        ("error", "task_serializer is 'json', but accept_content is ['yaml']: workers refuse what is sent")
    ]
    assert found["results"][0][0] == "error"
    assert found["results"][0][1].startswith("result_serializer is 'json', but results of that kind are not accepted")
    assert found["worker-lost"][0][1].startswith("task_reject_on_worker_lost: x comes back without bound")


@pytest.mark.every_rabbit
def test_doctor_on_rabbitmq(rabbit: RabbitServer, tmp_path: Any) -> None:
    (tmp_path / "hare.py").write_text(
        "import os\n"
        "from celery import Celery\n"
        "from kombu import Queue\n"
        "app = Celery('hare', broker=os.environ['HARE'])\n"
        "app.conf.task_acks_late = True\n"
        "app.conf.task_queues = [Queue('there', queue_arguments={'x-queue-type': 'quorum'}),\n"
        "                        Queue('other', queue_arguments={'x-max-priority': 3}), Queue('absent')]\n"
    )
    connect: Any = Connection
    with connect(rabbit.url()) as connection:
        channel = connection.default_channel
        channel.queue_declare("there", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        channel.queue_declare("other", durable=True, auto_delete=False)
    done = doctor("hare:app", directory=tmp_path, HARE=rabbit.url())
    found = findings(done.stdout)
    assert done.returncode == 1, done.stdout
    assert found["broker"] == [("ok", f"amqp://***@127.0.0.1:{rabbit.port}// answers")]
    assert found["confirms"][0][0] == "warning"
    assert found["queue there"][0][1].startswith("a quorum queue without x-dead-letter-exchange")
    assert ("ok", "quorum; 0 wait, 0 consume") in found["queue there"]
    assert found["queue other"][0][0] == "error"
    assert "exists with other arguments" in found["queue other"][0][1]
    assert found["queue absent"] == [("warning", "does not exist yet")]


def test_broker_that_does_not_answer_has_its_status(run: Any) -> None:
    status, out, _ = run(
        "doctor",
        "--quiet",
        *("--broker", "redis://user:secret@127.0.0.1:1/0"),
        *("--result-backend", "redis://user:secret@127.0.0.1:1/1"),
        *("--store", "redis://user:secret@127.0.0.1:1/2"),
    )
    assert status == 3
    assert "does not answer" in out
    assert "secret" not in out


def test_tables_fit_the_terminal() -> None:
    assert table(("A", "LAST"), [("x", "y" * 40), (12, "z")], width=20) == f"A   LAST\nx   {'y' * 15}…\n12  z"
    assert [ago(seconds) for seconds in (0, 119, 120, 7_200, 200_000)] == ["0s", "119s", "2m", "2h", "2d"]
