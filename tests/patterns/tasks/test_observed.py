"""What one can know of tasks: logs, traces, reports of errors, and explanations."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_patterns import protocol
from celery_patterns.tasks import explain
from patterns.tasks import shop
from patterns.tasks.conftest import BROKER, StartWorker
from servers import RedisServer, Worker, eventually

Ledger = Callable[..., list[dict[str, Any]]]
WaitStart = Callable[..., dict[str, Any]]
UID = "6f1c1a52-4f0a-4f3e-9a39-0d8f1f9f2a11"

pytestmark = pytest.mark.usefixtures("worker")


def test_every_line_of_a_task_says_where_it_belongs(start_worker: StartWorker, key: str) -> None:
    identity = protocol.TaskIdentity(uid=UID, run=2, step="load", index=7, attempt=3)
    with start_worker(queues=key, env={"CELERY_PATTERNS_LOGS": "json"}, loglevel="INFO") as worker:
        plain = (shop.talk.si("first").set(queue=key) | shop.talk.si("second").set(queue=key)).delay()
        plain.get(timeout=60)
        flow = shop.talk.apply_async(["third"], queue=key, headers={protocol.TASK_HEADER: identity.to_header()})
        flow.get(timeout=60)
        lines = eventually(lambda: three(_lines(worker, "said ")))
    first, second, third = lines
    root = plain.parent.id
    assert {name: second[name] for name in ("event", "task", "task_id", "root_id", "parent_id", "attempt")} == {
        "event": "said second",
        "task": "talk",
        "task_id": plain.id,
        "root_id": root,
        "parent_id": root,
        "attempt": 1,
    }
    assert first["correlation_id"] == second["correlation_id"] == root
    expected = {"correlation_id": UID, "workflow": UID, "run": 2, "step": "load", "index": 7, "attempt": 3}
    assert {name: third[name] for name in expected} == expected
    assert third["task_id"] == flow.id


def three(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return them once they are all there."""
    return lines if len(lines) == 3 else []


def _lines(worker: Worker, start: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in worker.log().splitlines() if line.startswith("{")]
    return [line for line in lines if str(line["event"]).startswith(start)]


def test_no_span_is_lost_when_each_task_ends_its_process(start_worker: StartWorker, tmp_path: Path, key: str) -> None:
    spans = tmp_path / "spans"
    arguments = ["--max-tasks-per-child", "1"]
    with start_worker(queues=key, concurrency=6, arguments=arguments, env={"SHOP_SPANS": str(spans)}) as worker:
        results = [shop.talk.apply_async([str(number)], queue=key) for number in range(6)]
        ids = {result.id for result in results}
        for result in results:
            result.get(timeout=60)

        def seen() -> bool:
            text = spans.read_text() if spans.exists() else ""
            found = [json.loads(line) for line in text.splitlines()]
            return {span["attributes"].get("messaging.message.id") for span in found} >= ids

        eventually(seen, within=4, what=worker.log)


def test_a_task_that_waits_is_found_with_its_place(key: str) -> None:
    for number in range(3):
        shop.talk.apply_async([f"{number}"], queue=key)
    urgent = shop.talk.apply_async(["urgent"], queue=key, priority=0)
    later = shop.charge.apply_async([key], queue=key, priority=6)
    told = explain(later.id, shop.app, queues=[key])
    assert (told.where, told.queue, told.position, told.task) == ("queue", key, 4, "charge")
    assert f"it waits in the queue {key}: 4 messages are before it" in told.sentences
    place = explain(urgent.id, shop.app, queues=[key]).position
    assert place == 3


def test_a_task_that_runs_and_one_that_waits_for_it_say_so(wait_start: WaitStart, key: str) -> None:
    first = shop.charge.delay(key, 1.5)
    wait_start(key)
    second = shop.charge.delay(key)
    eventually(lambda: second.state == "RETRY")
    running = explain(first.id, shop.app)
    assert running.where == "worker"
    assert running.deliveries == 1
    assert any(sentence.startswith("it runs on ") for sentence in running.sentences), running.sentences
    waiting = explain(second.id, shop.app)
    assert waiting.deferrals == 1
    assert any(f"is held by task {first.id}" in sentence for sentence in waiting.sentences), waiting.sentences
    assert first.get(timeout=60) == second.get(timeout=60)
    done = explain(second.id, shop.app)
    assert (done.where, done.state) == ("done", "SUCCESS")
    assert json.loads(json.dumps(done.to_json()))["task_id"] == second.id


def test_an_unknown_task_is_unknown() -> None:
    told = explain("no-such-task", shop.app)
    assert told.where == "unknown"
    assert told.sentences[-1].startswith("nobody knows it: it was never sent here")
    assert told.unseen == []


def test_entries_that_nobody_can_read_do_not_hide_the_others(redis: RedisServer, key: str) -> None:
    """Somebody else's entry in the queue, and what stands among the messages that workers hold."""
    sent = shop.bare.apply_async(queue=key)
    with redis.client(BROKER) as client:
        for entry in (b"garbage", b"[1]", b"7", b'{"headers": 3}'):
            client.rpush(key, entry)
        client.hset("unacked", "empty", "")
        client.hset("unacked", "odd", "[1]")
    try:
        told = explain(sent.id, shop.app, queues=[key])
        assert (told.where, told.position) == ("queue", 4)
        assert told.unseen == [f"an entry of the queue {key} that is no message"]
        unknown = explain("no-such-task", shop.app, queues=[key])
        assert unknown.where == "unknown"
        assert "2 entries of what workers hold that are no messages" in unknown.unseen
    finally:
        with redis.client(BROKER) as client:
            client.delete(key)
            client.hdel("unacked", "empty", "odd")


def test_an_item_says_in_which_batch_it_waits_and_who_has_it(start_worker: StartWorker, key: str) -> None:
    def sentence(found: Any, beginning: str) -> str:
        return next((each for each in found.sentences if each.startswith(beginning)), "")

    with start_worker(queues=key, concurrency=2):
        rows = [shop.insert_rows.apply_async(kwargs={"table": key, "row": "slow"}, queue=key) for _ in range(2)]
        ids = [row.id for row in rows]
        waiting = eventually(
            lambda: [found for each in ids if sentence(found := explain(each, shop.app), "it waits in the batch")],
            what="they are in the store",
        )
        assert {(found.where, found.task) for found in waiting} == {("batch", "insert_rows")}
        assert sentence(waiting[-1], "it waits").endswith(": a flush was asked for"), waiting[-1].sentences
        taken = eventually(lambda: sentence(explain(ids[0], shop.app), "the flush "), what="they are taken")
        assert taken.endswith(f" works it off, in a batch of insert_rows:{key}")
        assert [row.get(timeout=60)["tries"] for row in rows] == [1, 1]


def test_events_for_sentry_carry_the_correlation() -> None:
    from celery_patterns.tasks.sentry import add_correlation

    assert add_correlation({"message": "x"}) == {"message": "x"}
    task = shop.app.tasks["talk"]
    task.push_request(id="one", root_id="zero", retries=0)
    from celery._state import _task_stack

    _task_stack.push(task)
    try:
        event = add_correlation({"message": "x"})
    finally:
        _task_stack.pop()
        task.pop_request()
    tags = {"correlation_id": "zero", "task": "talk", "task_id": "one", "root_id": "zero", "attempt": "1"}
    assert event == {"message": "x", "tags": tags}


def test_what_a_task_raises_is_reported_with_its_correlation(tmp_path: Path) -> None:
    """In a process of its own, since Sentry changes Celery for the rest of a process."""
    program = tmp_path / "reports.py"
    program.write_text(REPORTS)
    done = subprocess.run([sys.executable, program], check=False, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    [report] = json.loads(done.stdout)
    assert report["kind"] == "KeyError"
    expected = {"correlation_id": "one", "task": "broken", "task_id": "one", "attempt": "1"}
    assert {name: report["tags"][name] for name in expected} == expected


REPORTS = """
import json
import subprocess
import sys

import sentry_sdk
from celery import Celery
from sentry_sdk.transport import Transport

from celery_patterns.tasks import PatternTask, sentry

envelopes = []


class Collect(Transport):
    def capture_envelope(self, envelope):
        envelopes.append(envelope)


sentry.enable("http://key@127.0.0.1:1/1", transport=Collect)
app = Celery("reports")


@app.task(base=PatternTask, name="broken", policies=[])
def broken():
    raise KeyError("x")


broken.apply(task_id="one", throw=False)
sentry_sdk.flush()
events = [item.payload.json for envelope in envelopes for item in envelope.items if item.type == "event"]
reports = [{"tags": e["tags"], "kind": e["exception"]["values"][0]["type"]} for e in events if "exception" in e]
print(json.dumps(reports))
"""
