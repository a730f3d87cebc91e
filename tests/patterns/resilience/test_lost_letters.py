"""Letters that cannot be kept: those that can later wait for it, those that never can are counted as lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from kombu.entity import Queue

from celery_patterns.resilience.letter_queues import SUFFIX, LetterQueues
from patterns.resilience.stage import Stage, lines_on_letters
from servers import RabbitKind, RabbitServer, RedisServer, eventually, rabbitmq_server

ALL_ON_BROKER = {"CELERY_PATTERNS_DEAD_LETTERS": "all", "CELERY_PATTERNS_DEAD_LETTERS_ON": "broker"}
MOST_BYTES = 20_000
LONG = "x" * 2 * MOST_BYTES
"""Compressed, a call with it is small; its letter, which can be read, is not."""


@pytest.fixture
def narrow(rabbit_kind: RabbitKind) -> Iterator[RabbitServer]:
    """A RabbitMQ that takes no large message."""
    with rabbitmq_server(rabbit_kind, settings=f"max_message_size = {MOST_BYTES}") as server:
        yield server


def send_compressed(stage: Stage, task: str, *args: Any) -> str:
    return str(stage.app.send_task(task, args, queue=stage.queue, compression="zlib").id)


def waiting(stage: Stage) -> int:
    """Return how many messages would be delivered."""
    with stage.app.connection_for_read() as connection, connection.channel() as channel:
        return int(Queue(stage.queue, channel=channel).queue_declare(passive=True).message_count)  # type: ignore[no-untyped-call]


@pytest.mark.every_rabbit
def test_letters_that_can_never_be_kept_are_counted_as_lost(redis: RedisServer, narrow: RabbitServer) -> None:
    """A failed task's and a killed process's; each is in the log, its message does not come again, and others run."""
    with Stage.on(redis, narrow.url()) as stage, stage.worker(env=ALL_ON_BROKER) as worker:
        failed = send_compressed(stage, "plain_fail", LONG)
        lost = f'celery_agent_dead_letters_lost_total{{queue="{stage.queue}",reason='
        waits = "celery_agent_dead_letters_waiting 0.0"
        eventually(lambda: lines_on_letters(worker) == {f'{lost}"failed"}} 1.0', waits}, what=worker.log)
        key = f"{LONG}-{stage.queue}"
        killed = send_compressed(stage, "wait", key, 600)
        eventually(lambda: stage.ran(key) == 1, what=worker.log)
        (child,) = worker.children()
        os.kill(child, signal.SIGKILL)
        both = {f'{lost}"failed"}} 1.0', f'{lost}"worker_lost"}} 1.0', waits}
        eventually(lambda: lines_on_letters(worker) == both, within=20, what=worker.log)
        kept = stage.send("ok", "after")
        eventually(lambda: stage.state(kept) == "SUCCESS", what=worker.log)
        assert [stage.state(each) for each in (failed, killed)] == ["FAILURE", "FAILURE"]
        given_up = [line for line in worker.log().splitlines() if "is given up" in line]
        assert [each in line for each, line in zip((failed, killed), given_up, strict=True)] == [True, True]
        worker.stop()
        assert waiting(stage) == 0, "nothing of them is left with the broker"


@pytest.mark.every_rabbit
def test_letters_wait_while_their_queue_takes_no_more(redis: RedisServer, rabbit: RabbitServer) -> None:
    """Somebody has bounded the letters' queue, and has the broker refuse what is too much."""
    with Stage.on(redis, rabbit.url()) as stage:
        bounded = {"x-max-length": 1, "x-overflow": "reject-publish"}
        with stage.app.connection_for_write() as connection, connection.channel() as channel:
            Queue(stage.queue + SUFFIX, durable=True, queue_arguments=bounded, channel=channel).queue_declare()  # type: ignore[no-untyped-call]
        letters = LetterQueues(stage.app)
        with stage.worker(env=ALL_ON_BROKER) as worker:
            kept = f'celery_agent_dead_letters_total{{queue="{stage.queue}",reason="failed"}} '
            waits = "celery_agent_dead_letters_waiting "
            sent = [stage.send("plain_fail", f"{stage.queue}-{number}") for number in range(3)]
            for number in range(3):
                expected = {f"{kept}{number + 1}.0", f"{waits}{min(1, 2 - number)}.0"}
                eventually(lambda: lines_on_letters(worker) == expected, within=20, what=worker.log)  # noqa: B023
                (letter,) = letters.scan(stage.queue)
                assert letter.message.task_id == sent[number]
                assert letters.remove(stage.queue, [letter.id]) == 1
        letters.close()


def test_text_that_is_no_unicode_costs_no_letter(redis: RedisServer) -> None:
    """As the name of a file may be, in an error's text and in an id."""
    odd = "no file \udcff"
    with Stage.on(redis, redis.url(0)) as stage:
        env = {"CELERY_PATTERNS_DEAD_LETTERS": "all"}
        with stage.worker(app="patient:app", env=env) as worker:
            sent = stage.send("plain_fail", odd)
            body, headers = "[[], {}, {}]", {"id": "odd \ud800", "task": "nobody.knows"}
            stage.publish(body, content_type="application/json", content_encoding="utf-8", headers=headers)
            failed, unknown = sorted(stage.wait_letters(2, what=worker.log), key=lambda letter: letter.reason)
            assert (failed.message.task_id, failed.error) == (sent, "ValueError: no file \\udcff")
            assert (unknown.reason, unknown.message.headers) == ("unknown_task", headers)
            names = {"celery_agent_dead_letters_total", "celery_agent_dead_letters_waiting"}
            eventually(lambda: {line.partition("{")[0].split(" ")[0] for line in lines_on_letters(worker)} == names)
