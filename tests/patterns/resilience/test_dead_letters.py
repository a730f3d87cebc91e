"""What will not run again is kept as it was, on a real worker: the worker goes on, and nothing is lost."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from celery_patterns.resilience.letter_streams import LetterStreams
from celery_patterns.resilience.patching import patch
from celery_patterns.resilience.replay import Replays
from celery_patterns.store import Store, StoreSettings
from celery_patterns.store import settings as store_settings
from patterns.resilience.stage import Stage, lines_on_letters
from servers import RedisServer, Worker, eventually, redis_server

ALONE_DB = 6
"""A broker's database without the worker that the others share, which brings back what is held for two seconds."""


@pytest.fixture(scope="module")
def running(redis: RedisServer) -> Iterator[tuple[Stage, Worker]]:
    """One worker for the tests that do not harm it."""
    with Stage.on(redis, redis.url(0)) as stage, stage.worker(concurrency=2) as worker:
        yield stage, worker


@pytest.fixture
def stage(running: tuple[Stage, Worker]) -> Iterator[Stage]:
    stage, worker = running
    stage.letters.purge(stage.queue)
    yield stage
    assert worker.process.poll() is None, worker.log()
    done = stage.send("ok", "still works")
    eventually(lambda: stage.state(done) == "SUCCESS", what=worker.log)
    eventually(lambda: stage.held() == 0, what=worker.log)


def test_message_that_is_no_json(stage: Stage) -> None:
    stage.publish("{not json", content_type="application/json", content_encoding="utf-8", headers={"mine": 1})
    (letter,) = stage.wait_letters(1)
    assert (letter.reason, letter.message.body, letter.message.headers) == ("undecodable", b"{not json", {"mine": 1})
    assert letter.error.startswith("DecodeError: ")
    assert letter.message.content_type == "application/json"


def test_content_that_is_not_accepted_is_kept_unread(stage: Stage) -> None:
    pickle = b"cos\nsystem\n(S'false'\ntR."
    headers = {"task": "ok", "id": "p1"}
    stage.publish(pickle, content_type="application/x-python-serialize", content_encoding="binary", headers=headers)
    (letter,) = stage.wait_letters(1)
    assert (letter.reason, letter.message.body, letter.message.headers) == ("undecodable", pickle, headers)


@pytest.mark.parametrize("garbage", [b"total garbage \xc3\xa4", b"[]", b'{"body": 3}', b'{"properties": {}}', b"7"])
def test_garbage_in_the_queue_itself(stage: Stage, garbage: bytes) -> None:
    """Not even an envelope: stock Celery ends over it."""
    with stage.redis.client() as client:
        client.lpush(stage.queue, garbage)
    (letter,) = stage.wait_letters(1)
    assert (letter.reason, letter.message.body) == ("undecodable", garbage)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"hello": 1}, {}),
        ([1, 2], {"task": "ok", "id": "bad1"}),
        ([[], {}, {}], {"task": "ok"}),
        ([[], {}, {}], {"task": "ok", "id": "bad2", "eta": "soon"}),
    ],
    ids=["no task", "no arguments", "no id", "no date"],
)
def test_message_that_is_no_task_message(stage: Stage, body: Any, headers: dict[str, str]) -> None:
    stage.publish(body, serializer="json", headers=headers)
    (letter,) = stage.wait_letters(1)
    assert (letter.reason, json.loads(letter.message.body)) == ("invalid", body)


def test_unknown_task_is_kept_and_its_failure_stored(stage: Stage) -> None:
    sent = stage.send("nobody.knows", 1)
    (letter,) = stage.wait_letters(1)
    assert (letter.reason, letter.message.task, letter.message.task_id) == ("unknown_task", "nobody.knows", sent)
    assert stage.state(sent) == "FAILURE"


def test_failed_task_is_kept_once_it_has_no_further_try(stage: Stage) -> None:
    sent = stage.send("fail", "f1")
    (letter,) = stage.wait_letters(1)
    assert (letter.reason, letter.attempts, letter.error) == ("failed", 2, "ValueError: the amount 0 is wrong")
    assert (letter.message.task_id, json.loads(letter.message.body)[0]) == (sent, ["f1"])
    assert 'raise ValueError(f"the amount {amount} is wrong")' in letter.traceback
    assert len(letter.traceback_hash) == 12
    assert stage.ran("f1") == 2
    again = stage.send("fail", "f2", 7)
    letters = stage.wait_letters(2)
    assert letters[1].message.task_id == again
    assert letters[1].traceback_hash == letters[0].traceback_hash, "another value, the same place"


def test_rejected_task_and_one_that_runs_into_its_limit_are_kept(stage: Stage) -> None:
    rejected = stage.send("reject", "r1")
    slow = stage.send("slow", "s1")
    letters = stage.wait_letters(2)
    assert {letter.message.task_id: letter.reason for letter in letters} == {rejected: "rejected", slow: "timeout"}


def test_task_that_a_policy_refuses_is_kept(stage: Stage) -> None:
    sent = [stage.send("refused", "limited") for _ in range(2)]
    (letter,) = stage.wait_letters(1)
    assert letter.message.task_id in sent
    assert (letter.reason, letter.error.split(":")[0]) == ("refused", "RateExceeded")
    assert stage.ran("limited") == 1


def test_only_the_ends_that_a_task_names_are_kept(stage: Stage) -> None:
    sent = stage.send("picky", "c1")
    eventually(lambda: stage.state(sent) == "FAILURE")
    assert list(stage.letters.scan(stage.queue)) == []


def test_task_that_kills_its_process_is_tried_as_often_as_it_may_and_kept(stage: Stage) -> None:
    sent = stage.send("die", "d1")
    (letter,) = stage.wait_letters(1)
    assert (letter.reason, letter.attempts, letter.message.task_id) == ("worker_lost", 2, sent)
    assert stage.ran("d1") == 2
    assert stage.state(sent) == "FAILURE"


def test_task_without_the_policy_fails_as_ever(stage: Stage) -> None:
    sent = stage.send("plain_fail", "p1")
    eventually(lambda: stage.state(sent) == "FAILURE")
    assert list(stage.letters.scan(stage.queue)) == []


def test_replay_runs_the_same_id_anew_and_a_patch_can_mend_it(stage: Stage) -> None:
    sent = stage.send("fail", "again")
    (letter,) = stage.wait_letters(1)
    with Replays(stage.app) as replays:
        replays.send(letter)
    letters = stage.wait_letters(2)
    assert [each.message.task_id for each in letters] == [sent, sent]
    assert letters[1].attempts == 2, "its tries were counted from the beginning"
    mended = patch(letter.message, ["kwargs.amount=42"])
    with Replays(stage.app) as replays:
        replays.send(dataclasses.replace(letter, message=mended))
    eventually(lambda: stage.state(sent) == "SUCCESS")


def test_every_key_of_the_letters_expires(stage: Stage) -> None:
    stage.publish({"hello": 1}, serializer="json")
    stage.wait_letters(1)
    client = stage.store.client
    keys = client.keys("*:dead:*")
    assert len(keys) >= 3
    assert [key for key in keys if client.pttl(key) < 0] == []


def test_worker_without_the_agent_keeps_the_same_letters(redis: RedisServer) -> None:
    """An application's ``PatternApp`` or ``install`` brings what is needed; only the metrics are the agent's."""
    # Nobody renews what the worker holds, and Celery may need five seconds to notice a dead child. The database is its
    # own: on that of the others their worker, which waits two seconds only, would bring the messages back meanwhile.
    env = {"SHAKY_VISIBILITY": "60"}
    with Stage.on(redis, redis.url(ALONE_DB)) as stage, stage.worker(agent=False, concurrency=2, env=env) as worker:
        failed = stage.send("fail", "b1", 7)
        killed = stage.send("die", "b2")
        unknown = stage.send("nobody.knows", 1)
        with redis.client(ALONE_DB) as client:
            client.lpush(stage.queue, b"garbage")
        letters = stage.wait_letters(4, what=worker.log)
        ends = {letter.message.task_id: (letter.reason, letter.attempts) for letter in letters}
        assert ends == {
            failed: ("failed", 2),
            killed: ("worker_lost", 2),
            unknown: ("unknown_task", 0),
            "": ("undecodable", 0),
        }
        (letter,) = [letter for letter in letters if letter.message.task_id == failed]
        assert json.loads(letter.message.body)[:2] == [["b1", 7], {}]
        with Replays(stage.app) as replays:
            replays.send(letter)
        eventually(lambda: stage.ran("b1") == 4, what=worker.log)


def test_letters_are_counted_on_the_metrics(redis: RedisServer) -> None:
    with Stage.on(redis, redis.url(0)) as stage, stage.worker() as worker:
        stage.send("fail", "m1")
        stage.send("fail", "m2")
        stage.send("nobody.knows")
        stage.wait_letters(3, what=worker.log)
        expected = {
            f'celery_agent_dead_letters_total{{queue="{stage.queue}",reason="failed"}} 2.0',
            f'celery_agent_dead_letters_total{{queue="{stage.queue}",reason="unknown_task"}} 1.0',
            "celery_agent_dead_letters_waiting 0.0",
        }
        eventually(lambda: expected == lines_on_letters(worker), what=lambda: str(lines_on_letters(worker)))


def test_letters_that_cannot_be_kept_are_counted_too(redis: RedisServer) -> None:
    """They wait while the store is away; those that can never be kept are lost but for the log."""
    with redis_server() as apart, Stage.on(redis, redis.url(ALONE_DB)) as stage:
        env = {store_settings.ENV_URL: apart.url(), "CELERY_PATTERNS_DEAD_LETTERS": "all"}
        with stage.worker(env=env, app="patient:app") as worker:
            apart.stop()
            stage.send("plain_fail", "held")
            eventually(lambda: lines_on_letters(worker) == {"celery_agent_dead_letters_waiting 1.0"}, what=worker.log)
            apart.start()
            kept = f'celery_agent_dead_letters_total{{queue="{stage.queue}",reason="failed"}} 1.0'
            eventually(lambda: lines_on_letters(worker) == {kept, "celery_agent_dead_letters_waiting 0.0"})


def test_oversized_message_is_kept_undecoded(redis: RedisServer) -> None:
    limits = {"CELERY_PATTERNS_MAX_MESSAGE_BYTES": "10KB"}
    with Stage.on(redis, redis.url(0)) as stage, stage.worker(env=limits) as worker:
        stage.send("ok", "x" * 20_000)
        (letter,) = stage.wait_letters(1, what=worker.log)
        assert (letter.reason, letter.message.task) == ("oversized", "ok")
        assert "bytes, which is more than 10000 (patterns_max_message_bytes)" in letter.error
        small = stage.send("ok", "y")
        eventually(lambda: stage.state(small) == "SUCCESS")


@pytest.mark.parametrize("trouble", ["down", "full"])
def test_store_in_trouble_holds_the_message_back_until_its_letter_is_kept(redis: RedisServer, trouble: str) -> None:
    """Down, or out of memory: the message stays unacknowledged, others go on, and nothing is lost."""
    with redis_server() as apart, Stage.on(redis, redis.url(ALONE_DB)) as stage:
        env = {store_settings.ENV_URL: apart.url(), "CELERY_PATTERNS_DEAD_LETTERS": "all"}
        # Longer than the test: what is held back must not come again meanwhile.
        with stage.worker(concurrency=2, env=env, app="patient:app") as worker:
            if trouble == "down":
                apart.stop()
            else:
                with apart.client() as client:
                    client.config_set("maxmemory", "1")
            sent = stage.send("plain_fail", "held")
            eventually(lambda: "cannot be kept as a dead letter yet" in worker.log(), what=worker.log)
            assert stage.held() == 1
            done = stage.send("plain_ok", "others go on")
            eventually(lambda: stage.state(done) == "SUCCESS", what=worker.log)
            if trouble == "down":
                apart.start()
            else:
                with apart.client() as client:
                    client.config_set("maxmemory", "0")
            store = Store(stage.app, StoreSettings(url=apart.url()))
            letters = eventually(lambda: list(LetterStreams(store).scan(stage.queue)), what=worker.log)
            assert [letter.message.task_id for letter in letters] == [sent]
            eventually(lambda: stage.held() == 0, what=worker.log)
            store.close()


UNDELIVERABLE = """
import sys
from kombu import Connection
from celery_patterns.resilience import wire
wire.install()
with Connection(sys.argv[1]) as connection, connection.channel() as channel:
    channel.queue_declare("q")
    channel.basic_consume("q", no_ack=False, callback=print, consumer_tag="t")
    connection.SimpleQueue("q").put("x")
    # As when a worker drains: the consumer is gone while a message is on its way.
    del connection.transport._callbacks["q"]
    connection.drain_events(timeout=30)
    print(channel._size("q"), channel.client.hlen("unacked"))
"""


def test_message_that_nobody_takes_any_more_goes_back_to_its_queue(redis: RedisServer) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNDELIVERABLE, redis.url(7)], check=False, capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "1 0\n", done.stderr
