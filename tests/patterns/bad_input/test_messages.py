"""Messages that no Celery would write, on both brokers: kept as they are, said what is wrong, and the worker goes on.

One worker with a single slot for all of a broker: a slot that a bad message kept would stop every test after it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from patterns.bad_input.stage import Raw, Stage
from patterns.stage import WITHIN
from servers import RedisServer, Worker, eventually

Running = tuple[Stage, Worker]

LIMIT = 10_000
HEADERS: dict[str, Any] = {"task": "ok", "id": "bad"}
BODY: list[Any] = [["bad"], {}, {}]


@pytest.fixture(scope="module")
def running(redis: RedisServer, broker: str) -> Iterator[Running]:
    limits = {"CELERY_PATTERNS_MAX_MESSAGE_BYTES": str(LIMIT)}
    with Stage.on(redis, broker) as stage, stage.worker(env=limits) as worker:
        yield stage, worker


@pytest.fixture
def stage(running: Running) -> Iterator[Stage]:
    """The stage, without letters; after each test a good task must run and the worker hold nothing."""
    stage, worker = running
    stage.letters.purge(stage.queue)
    with stage.redis.client(1) as results:
        results.delete("celery-task-meta-bad")
    yield stage
    stage.wait_done(stage.send("ok", "good"), worker)
    stage.wait_idle(worker)
    if not stage.broker.startswith("amqp"):
        eventually(lambda: stage.held() == 0, within=WITHIN, what=worker.log)


def raw(body: Any = BODY, **headers: Any) -> Raw:
    return Raw(json.dumps(body).encode(), {**HEADERS, **headers})


def old(**fields: Any) -> Raw:
    """Return a message of the first protocol: all is in the body."""
    return Raw(json.dumps({"task": "ok", "id": "bad", "args": ["bad"], "kwargs": {}, **fields}).encode())


INVALID = {
    "text for a body": (raw("abc"), "the body: expected a list of args, kwargs and embed"),
    "mapping for a body": (raw({"a": 1}), "the body: expected a list of args, kwargs and embed"),
    "null": (raw(None), "the body: expected a list of args, kwargs and embed"),
    "two parts": (raw([[], {}]), "the body: expected a list of args, kwargs and embed"),
    "nothing": (Raw(b"", HEADERS), "the body: expected a list of args, kwargs and embed"),
    "no content type": (Raw(b"[[], {}, {}]", HEADERS, None, None), "the body: expected a list of args"),
    "text for args": (raw(["abc", {}, {}]), "args: expected a list, got the str 'abc'"),
    "list for kwargs": (raw([[], [1], {}]), "kwargs: expected a mapping of names, got the list [1]"),
    "number for embed": (raw([[], {}, 7]), "embed: expected a mapping or null, got the int 7"),
    "number for callbacks": (raw([[], {}, {"callbacks": 3}]), "callbacks: expected a list or null"),
    "number for chain": (raw([[], {}, {"chain": 5}]), "chain: expected a list or null, got the int 5"),
    "text for chord": (raw([[], {}, {"chord": "x"}]), "chord: expected a mapping or null, got the str 'x'"),
    "no id": (Raw(json.dumps(BODY).encode(), {"task": "ok"}), "id: expected a text, got nothing"),
    "number for id": (raw(id=7), "id: expected a text, got the int 7"),
    "mapping for id": (raw(id={"a": 1}), "id: expected a text, got the dict {'a': 1}"),
    "list for task": (raw(task=["ok"]), "task: expected a text, got the list ['ok']"),
    "text for retries": (raw(retries="many"), "retries: expected a whole number from 0, got the str 'many'"),
    "text for time limits": (raw(timelimit="abc"), "timelimit: expected a list of two, hard and soft"),
    "texts for time limits": (raw(timelimit=["a", "b"]), "timelimit: expected a list of two, hard and soft"),
    "negative time limits": (raw(timelimit=[-1, -1]), "timelimit: expected a list of two, hard and soft"),
    "word for eta": (raw(eta="soon"), "eta: expected a date such as 2026-11-22T12:00:00+00:00, got the str 'soon'"),
    "eta at the end of time": (raw(eta="9999-12-31T23:59:59-12:00"), "eta: expected a date such as"),
    "eta before time": (raw(eta="0001-01-01T00:00:00+14:00"), "eta: expected a date such as"),
    "mapping for expires": (raw(expires={"a": 1}), "expires: expected a date such as"),
    "number for stamps": (raw(stamps=5, stamped_headers=5), "stamped_headers: expected a list or null"),
    "old, no id": (old(id=None), "id: expected a text, got nothing"),
    "old, number for args": (old(args=5), "args: expected a list, got the int 5"),
    "old, number for kwargs": (old(kwargs=5), "kwargs: expected a mapping of names, got the int 5"),
}


@pytest.mark.parametrize("name", INVALID)
def test_message_of_a_wrong_form_is_kept_and_told_of(stage: Stage, running: Running, name: str) -> None:
    message, error = INVALID[name]
    stage.put(message)
    (letter,) = stage.wait_letters(1, what=running[1].log)
    assert (letter.reason, letter.message.body) == ("invalid", message.body)
    assert letter.message.headers == message.headers
    assert letter.error.startswith(f"MalformedMessage: {error}")
    eventually(lambda: f"is a dead letter (invalid): {letter.error}" in running[1].log(), within=WITHIN)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_message_in_another_encoding_is_kept_byte_for_byte(stage: Stage, running: Running, encoding: str) -> None:
    """The client of RabbitMQ hands it over decoded; from Redis it comes as bytes, which are no JSON."""
    message = Raw('[["é"], {}, 7]'.encode(encoding), HEADERS, "application/json", encoding)
    stage.put(message)
    (letter,) = stage.wait_letters(1, what=running[1].log)
    assert letter.reason == ("invalid" if stage.broker.startswith("amqp") else "undecodable")
    assert (letter.message.body, letter.message.content_encoding) == (message.body, encoding)


def test_message_that_names_no_task_is_kept(stage: Stage, running: Running) -> None:
    stage.put(Raw(b'{"hello": 1}'))
    (letter,) = stage.wait_letters(1, what=running[1].log)
    assert (letter.reason, letter.message.body) == ("invalid", b'{"hello": 1}')
    assert letter.error == "no task message: neither its headers nor its body name a task"


UNDECODABLE = {
    "no JSON": (Raw(b"{not json", HEADERS), "DecodeError: "),
    "no UTF-8": (Raw(b'[["\xe9"], {}, {}]', HEADERS), "DecodeError: 'utf-8' codec can't decode byte 0xe9"),
    "too deep": (Raw(b"[" * 9_000, HEADERS), "DecodeError: "),
    "pickle": (Raw(b"cos\nsystem\n(S'false'\ntR.", HEADERS, "application/x-python-serialize", "binary"), "ContentDis"),
    "unknown type": (
        Raw(b"x", HEADERS, "text/martian"),
        "ContentDisallowed: Refusing to deserialize untrusted content",
    ),
    "unknown compression": (raw(compression="martian"), "DecodeError: this worker knows no compression 'martian'"),
    "damaged compression": (raw(compression="gzip"), "error: Error -3 while decompressing data"),
    "list for compression": (raw(compression=[4]), "DecodeError: this worker knows no compression [4]"),
}


@pytest.mark.parametrize("name", UNDECODABLE)
def test_message_that_cannot_be_read_is_kept_and_its_caller_told(stage: Stage, running: Running, name: str) -> None:
    message, error = UNDECODABLE[name]
    stage.put(message)
    (letter,) = stage.wait_letters(1, what=running[1].log)
    assert (letter.reason, letter.message.body, letter.message.headers) == (
        "undecodable",
        message.body,
        message.headers,
    )
    assert letter.error.startswith(error)
    assert stage.app.AsyncResult("bad").state == "FAILURE"


def test_content_that_is_refused_says_what_is_accepted(stage: Stage, running: Running) -> None:
    stage.put(Raw(b"x", HEADERS, "text/martian"))
    (letter,) = stage.wait_letters(1, what=running[1].log)
    assert letter.error.endswith("(text/martian); accept_content is ['json'] here")


@pytest.mark.parametrize(
    "message", [raw(task="nobody.knows"), old(task="nobody.knows")], ids=["as today", "of the first protocol"]
)
def test_unknown_task_is_kept_and_its_caller_told(stage: Stage, running: Running, message: Raw) -> None:
    stage.put(message)
    (letter,) = stage.wait_letters(1, what=running[1].log)
    assert (letter.reason, letter.message.body) == ("unknown_task", message.body)
    assert letter.error.startswith("NotRegistered: this worker knows no task of this name: is its module imported")
    assert stage.app.AsyncResult("bad").state == "FAILURE"


def test_message_that_is_too_large_is_kept_undecoded_and_its_caller_told(stage: Stage, running: Running) -> None:
    message = raw([["x" * 2 * LIMIT], {}, {}])
    stage.put(message)
    (letter,) = stage.wait_letters(1, what=running[1].log)
    assert (letter.reason, letter.message.body) == ("oversized", message.body)
    assert letter.error == (
        f"OversizedMessage: {len(message.body)} bytes, which is more than {LIMIT} (patterns_max_message_bytes): store "
        "large arguments apart, with the policy PayloadLimit"
    )
    assert stage.app.AsyncResult("bad").state == "FAILURE"


def test_message_that_would_grow_too_large_is_kept_compressed(stage: Stage, running: Running) -> None:
    """Two kilobytes that would become two megabytes: nobody decompresses more than the limit."""
    body = zlib.compress(json.dumps([["x" * 2_000_000], {}, {}]).encode())
    assert len(body) < LIMIT
    stage.put(Raw(body, {**HEADERS, "compression": "application/x-gzip"}))
    (letter,) = stage.wait_letters(1, what=running[1].log)
    assert (letter.reason, letter.message.body) == ("oversized", body)
    assert letter.message.headers["compression"] == "application/x-gzip"
    assert "more than 10000 bytes decompressed" in letter.error


@pytest.mark.parametrize(
    "message",
    [
        old(id="odd-1"),
        raw(id="odd-2", celery_operator="x", celery_patterns="x", group={"a": 1}, root_id=[1], argsrepr={"a": 5}),
        raw(id="odd-3", shadow={"a": 1}),
        Raw(json.dumps(BODY).encode(), {**HEADERS, "id": "odd-4"}, "application/json", "martian"),
        raw([["bad"], {}, {"id": ["x"], "task": 4}], id="odd-5"),
    ],
    ids=["first protocol", "odd headers", "odd name", "unknown encoding of JSON", "odd embed"],
)
def test_message_that_is_odd_but_can_be_run_is_run(stage: Stage, running: Running, message: Raw) -> None:
    stage.put(message)
    task_id = message.headers.get("id", "odd-1")
    stage.wait_done(task_id, running[1])
    assert list(stage.letters.scan(stage.queue)) == []


def test_wrong_arguments_are_the_tasks_own_failure(stage: Stage, running: Running) -> None:
    sent = stage.send("ok", "one", "too many")
    result = stage.app.AsyncResult(sent)
    eventually(lambda: result.state == "FAILURE", within=WITHIN, what=running[1].log)
    assert "takes 1 positional argument but 2 were given" in str(result.result)


def test_worker_that_is_busy_takes_no_harm(stage: Stage, running: Running) -> None:
    """What goes wrong when a slot becomes free goes wrong in the worker's loop."""
    stage.send("wait", "busy", f"{stage.queue}-go")
    eventually(lambda: stage.ran("busy"), within=WITHIN, what=running[1].log)
    for message in (raw(retries="many"), raw(timelimit=["a", "b"]), raw([[], {}, 7])):
        stage.put(message)
    stage.wait_letters(3, what=running[1].log)
    stage.allow(f"{stage.queue}-go")


@pytest.mark.parametrize("entry", [b"garbage \xc3\xa4", b"[]", b'{"body": 3}', b'{"properties": {}}', b"7"], ids=repr)
def test_entry_of_a_redis_list_that_is_no_message_is_kept(stage: Stage, running: Running, entry: bytes) -> None:
    if stage.broker.startswith("amqp"):
        stage.put(Raw(entry, {}, "application/x-unknown"))
    else:
        stage.push(entry)
    (letter,) = stage.wait_letters(1, what=running[1].log)
    assert (letter.reason, letter.message.body) == ("undecodable", entry)


def test_task_that_is_due_in_millennia_is_held_and_others_go_on(redis: RedisServer) -> None:
    """Its date is one, so it is no bad message: the worker holds it, and gives it back when it ends."""
    with Stage.on(redis, redis.url(0)) as stage, stage.worker() as worker:
        far = raw(eta="9000-01-01T00:00:00+00:00")
        stage.put(far)
        eventually(lambda: worker.state().scheduled == 1, within=WITHIN, what=worker.log)
        stage.wait_done(stage.send("ok", "beside"), worker)
        assert worker.stop(WITHIN) == 0
        with redis.client() as client:
            assert (client.llen(stage.queue), stage.held()) == (1, 0), worker.log()


def test_what_is_kept_is_counted(stage: Stage, running: Running) -> None:
    """By queue and reason, and among the ends of tasks."""
    worker = running[1]
    before = {reason: counted(worker, stage.queue, reason) for reason in ("invalid", "undecodable")}
    stage.put(raw(retries="many"))
    stage.put(Raw(b"{not json", HEADERS))
    stage.wait_letters(2, what=worker.log)
    after = {reason: counted(worker, stage.queue, reason) for reason in before}
    assert after == {reason: number + 1 for reason, number in before.items()}


def counted(worker: Worker, queue: str, reason: str) -> float:
    _, text = worker.request("/metrics")
    wanted = f'celery_agent_dead_letters_total{{queue="{queue}",reason="{reason}"}} '
    found = [line.removeprefix(wanted) for line in text.splitlines() if line.startswith(wanted)]
    return float(found[0]) if found else 0.0
