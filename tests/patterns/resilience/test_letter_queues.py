"""Dead letters on RabbitMQ, where there is no Redis to keep them, and those of the broker's own exchange."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from amqp.exceptions import FrameSyntaxError
from celery import Celery

from celery_patterns.resilience.letter_queues import LetterQueues
from celery_patterns.resilience.letters import Letter, OriginalMessage
from celery_patterns.resilience.replay import ReplayRefused, Replays
from patterns.resilience.stage import Stage
from servers import RabbitServer, RedisServer, eventually

pytestmark = pytest.mark.every_rabbit

ALL_ON_BROKER = {"CELERY_PATTERNS_DEAD_LETTERS": "all", "CELERY_PATTERNS_DEAD_LETTERS_ON": "broker"}
FRAME_BYTES = 131_072
"""What RabbitMQ and its clients agree on unless somebody has set another size."""
WITHIN = 30.0
"""Seconds: the machine may be loaded."""


@pytest.fixture
def stage(redis: RedisServer, rabbit: RabbitServer) -> Iterator[Stage]:
    with Stage.on(redis, rabbit.url()) as stage:
        yield stage


@pytest.fixture
def letters(stage: Stage) -> Iterator[LetterQueues]:
    found = LetterQueues(stage.app)
    yield found
    found.close()


def test_worker_keeps_letters_on_the_broker_and_they_can_be_replayed(stage: Stage, letters: LetterQueues) -> None:
    env, key = {"CELERY_PATTERNS_DEAD_LETTERS_ON": "broker"}, stage.queue  # the ledger is shared by both brokers' tests
    with stage.worker(env=env, concurrency=2) as worker:
        stage.publish("{not json", content_type="application/json", content_encoding="utf-8", headers={"mine": 1})
        sent = stage.send("fail", key, 7)
        found = eventually(
            lambda: len(list(letters.scan(stage.queue))) == 2 and list(letters.scan(stage.queue, newest_first=False)),
            what=worker.log,
        )
        by_reason = {letter.reason: letter for letter in found or []}
        assert by_reason["undecodable"].message.body == b"{not json"
        assert by_reason["undecodable"].message.headers == {"mine": 1}
        failed = by_reason["failed"]
        assert (failed.message.task_id, failed.attempts, failed.queue) == (sent, 2, stage.queue)
        assert failed.error == "ValueError: the amount 7 is wrong"
        assert json.loads(failed.message.body)[0] == [key, 7]
        with Replays(stage.app) as replays:
            replays.send(failed)
        assert letters.remove(stage.queue, [failed.id]) == 1
        eventually(lambda: stage.ran(key) == 4, what=worker.log)
        eventually(lambda: len(list(letters.scan(stage.queue))) == 2, what=worker.log)


def letter(queue: str, number: int) -> Letter:
    message = OriginalMessage(b"[[], {}, {}]", {"task": "t", "id": f"id{number}"}, {}, "application/json", "utf-8")
    return Letter("", queue, "failed", message, error=f"E: {number}")


def test_looking_changes_neither_order_nor_number(stage: Stage, letters: LetterQueues) -> None:
    ids = [letters.keep(letter(stage.queue, number), f"token{number}") for number in range(5)]
    for _ in range(3):
        assert [each.id for each in letters.scan(stage.queue, newest_first=False)] == ids
    assert [each.id for each in letters.scan(stage.queue)] == ids[::-1]
    found = letters.get(stage.queue, ids[2])
    assert found is not None
    assert found.error == "E: 2"
    assert letters.remove(stage.queue, [ids[2], "nobody"]) == 1
    assert letters.purge(stage.queue, 3600) == 0
    assert letters.purge(stage.queue) == 4
    assert list(letters.scan("no such queue")) == []
    assert letters.purge("no such queue") == 0


def test_headers_that_leave_no_room_for_a_note_cost_neither_their_letter_nor_those_behind(
    stage: Stage, letters: LetterQueues
) -> None:
    """AMQP has one frame for all headers of a message, and the broker ends the connection on which more come."""
    key = f"large-{stage.queue}"
    with stage.worker(env=ALL_ON_BROKER) as worker:
        large = {"mine": "x" * (FRAME_BYTES - 700), "number": 7}
        first = stage.app.send_task("plain_fail", [key], queue=stage.queue, headers=large).id
        second = stage.send("plain_fail", "small")
        found = eventually(
            lambda: len(list(letters.scan(stage.queue))) == 2 and list(letters.scan(stage.queue, newest_first=False)),
            within=WITHIN,
            what=worker.log,
        )
        assert [(each.message.task_id, each.error) for each in found or []] == [
            (first, "ValueError: plain"),
            (second, "ValueError: plain"),
        ]
        kept = (found or [])[0]
        assert {name: kept.message.headers[name] for name in large} == large
        assert kept.traceback.endswith("ValueError: plain\n")
        with Replays(stage.app) as replays:
            replays.send(kept)
        assert letters.remove(stage.queue, [kept.id]) == 1
        eventually(lambda: stage.ran(key) == 2, within=WITHIN, what=worker.log)


def test_letter_is_read_as_it_was_written_however_large_its_headers_are(stage: Stage, letters: LetterQueues) -> None:
    """Also those that no message could bring: of an item of a batch, whose message is written anew."""
    for size in (0, *range(FRAME_BYTES - 2_500, FRAME_BYTES + 100, 100), 3 * FRAME_BYTES):
        headers = {"task": "t", "id": f"id{size}", "mine": "x" * size, "other": {"list": [1, None, "ü", True]}}
        body, properties = '[[], {}, {"é": 1}]'.encode("utf-16"), {"correlation_id": f"id{size}"}
        message = OriginalMessage(body, headers, properties, "application/json", "utf-16")
        written = Letter("", stage.queue, "failed", message, "E: ü", "trace\n" * 100, "hash", 3, "w@h", original=False)
        letter_id = letters.keep(written, "token")
        (found,) = letters.scan(stage.queue)
        assert found.message.properties.items() >= properties.items()
        read = replace(found, id="", at_ms=0, message=replace(found.message, properties=properties))
        assert (letter_id, read) == (found.id, written)
        assert letters.remove(stage.queue, [letter_id]) == 1


def test_letter_is_not_removed_whose_message_the_broker_refuses(
    stage: Stage, letters: LetterQueues, rabbit: RabbitServer
) -> None:
    """A message that was written anew may have headers with which none can be sent; the next is sent all the same."""
    ids = []
    for size in (3 * FRAME_BYTES, 0):
        message = OriginalMessage(b"[[], {}, {}]", {"task": "t", "id": "i", "mine": "x" * size}, {}, "application/json")
        ids.append(letters.keep(Letter("", stage.queue, "failed", message), f"{size}-token"))
    with stage.app.connection_for_write() as connection:
        connection.default_channel.queue_declare(stage.queue, durable=True, auto_delete=False)
        command = [sys.executable, "-m", "celery_patterns.cli", "dlq", "replay", *ids]
        options = ["--queue", stage.queue, "--broker", rabbit.url(), "--json"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_")}
        done = subprocess.run([*command, *options], env=environment, check=False, capture_output=True, timeout=60)
        assert done.returncode == 1, done.stderr
        refused, sent = json.loads(done.stdout)
        assert (refused["replayed"], sent["replayed"]) == (False, True)
        assert "larger than AMQP allows" in refused["why"]
        assert [each.id for each in letters.scan(stage.queue)] == ids[:1]
        assert eventually(lambda: connection.default_channel.basic_get(stage.queue, no_ack=True)).headers["id"] == "i"


def test_letter_is_refused_whose_queue_does_not_exist_or_is_full(stage: Stage) -> None:
    """What cannot be routed is returned before the confirmation, which must not be taken for the next message's."""
    message = OriginalMessage(b"[[], {}, {}]", {"task": "t", "id": "i"}, {}, "application/json", "utf-8")
    kept = Letter("1-mark", stage.queue, "failed", message)
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with stage.app.connection_for_write() as connection, Replays(stage.app) as replays:
        channel = connection.default_channel
        channel.queue_declare(f"{stage.queue}-full", durable=True, auto_delete=False, arguments=full)
        for _ in range(2):
            with pytest.raises(ReplayRefused, match=rf"1-mark: RabbitMQ has no queue {stage.queue} \(a worker"):
                replays.send(kept)
        assert replays.send(kept, f"{stage.queue}-full") == f"{stage.queue}-full"
        for _ in range(2):
            with pytest.raises(ReplayRefused, match="as many as its x-max-length"):
                replays.send(kept, f"{stage.queue}-full")
        assert channel.queue_declare(f"{stage.queue}-full", passive=True).message_count == 1
        channel.queue_declare(stage.queue, durable=True, auto_delete=False)
        replays.send(kept)
        assert channel.basic_get(stage.queue, no_ack=True).headers["id"] == "i"


def test_headers_that_amqp_cannot_write_are_no_fault_of_the_broker(stage: Stage, letters: LetterQueues) -> None:
    """Waiting for it would not help: the keeper gives up what is refused in this way."""
    message = OriginalMessage(b"", {"mine": {1, 2}}, {}, "application/json", "utf-8")
    with pytest.raises(FrameSyntaxError, match="mine"):
        letters.keep(Letter("", stage.queue, "failed", message), "token")


def test_letters_of_the_brokers_own_exchange_are_read(
    stage: Stage, letters: LetterQueues, rabbit: RabbitServer
) -> None:
    """A queue whose arguments name a dead-letter routing key: what is rejected there appears with the broker's note."""
    arguments: dict[str, Any] = {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": f"{stage.queue}.dead",
        "x-queue-type": "quorum",
    }
    with Celery("declarer", set_as_current=False, broker=rabbit.url()) as app, app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare(f"{stage.queue}.dead", durable=True, auto_delete=False)
        channel.queue_declare(stage.queue, durable=True, auto_delete=False, arguments=arguments)
        stage.publish(
            "{}", content_type="application/json", content_encoding="utf-8", headers={"id": "i1", "task": "t"}
        )
        taken = eventually(lambda: channel.basic_get(stage.queue))
        channel.basic_reject(taken.delivery_tag, requeue=False)
        found = eventually(lambda: list(letters.scan(stage.queue)))
    assert [(each.reason, each.queue, each.message.task_id) for each in found] == [
        ("dead_lettered", stage.queue, "i1"),
    ]
    assert found[0].error == "RabbitMQ dead-lettered it: rejected"
    assert found[0].at_ms > 0
