"""A signed application meets messages and results that nobody it trusts has signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from patterns.bad_input.stage import Raw, Stage
from patterns.signatures import SEND, make_keys, run_source, signing_worker
from patterns.stage import RESULT_DB
from servers import RedisServer, Worker

Keys = tuple[Path, Path]
"""Ours, and a stranger's."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    return make_keys(folder / "ours", "ours"), make_keys(folder / "strangers", "stranger")


@pytest.fixture(scope="module")
def running(redis: RedisServer, broker: str, keys: Keys) -> Iterator[tuple[Stage, Worker]]:
    with Stage.on(redis, broker) as stage, signing_worker(stage, keys[0]) as worker:
        yield stage, worker


SEND_AND_GET = """
import sys
from signing import double
print(double.apply_async((21,), queue=sys.argv[1]).get(timeout=40))
"""
STORE = """
import sys
from signing import app
app.backend.store_result(sys.argv[1], 42, "SUCCESS")
"""
GET = """
import sys
from signing import app
try:
    print(app.AsyncResult(sys.argv[1]).get(timeout=60))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_message_that_a_stranger_signed_is_kept_and_not_run(running: tuple[Stage, Worker], keys: Keys) -> None:
    stage, worker = running
    stage.letters.purge(stage.queue)
    sent = run_source(stage, keys[1], SEND, stage.queue)
    (letter,) = stage.wait_letters(1, what=worker.log)
    assert (letter.reason, letter.message.task_id) == ("bad_signature", sent), letter.error
    assert run_source(stage, keys[0], SEND_AND_GET, stage.queue) == "42", "the worker goes on"
    with stage.redis.client(RESULT_DB) as results:
        assert results.get(f"celery-task-meta-{sent}") is None, "nobody may write a failure for any id"


def test_message_that_nobody_signed_is_kept_and_not_run(running: tuple[Stage, Worker]) -> None:
    stage, worker = running
    stage.letters.purge(stage.queue)
    stage.put(Raw(json.dumps([[21], {}, {}]).encode(), {"task": "double", "id": "unsigned"}))
    (letter,) = stage.wait_letters(1, what=worker.log)
    assert (letter.reason, letter.message.task_id) == ("undecodable", "unsigned")
    assert letter.error.startswith("ContentDisallowed: Refusing to deserialize untrusted content of type json")
    assert letter.error.endswith("accept_content is ['auth'] here")
    with stage.redis.client(RESULT_DB) as results:
        assert results.get("celery-task-meta-unsigned") is None
    stage.wait_idle(worker)


def test_result_that_a_stranger_signed_is_refused_by_the_client(running: tuple[Stage, Worker], keys: Keys) -> None:
    stage, _ = running
    run_source(stage, keys[1], STORE, "forged")
    answer = run_source(stage, keys[0], GET, "forged")
    assert answer.startswith("DecodeError: Unable to deserialize: SecurityError(\"Unknown certificate: b'stranger ")
    run_source(stage, keys[0], STORE, "true")
    assert run_source(stage, keys[0], GET, "true") == "42"
