"""Signed messages: what was changed on the way is kept and not run, and doctor makes the round trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from patterns.resilience.stage import Stage
from patterns.signatures import APP, SEND, make_keys, run, run_source, signing_worker
from patterns.stage import RESULT_DB
from servers import RedisServer, eventually


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys") / "own", "signing")


def test_message_that_was_changed_on_the_way_is_kept_and_not_run(redis: RedisServer, keys: Path) -> None:
    with Stage.on(redis, redis.url(0)) as stage:
        good = run_source(stage, keys, SEND, stage.queue)
        assert good
        with redis.client() as client:
            found: Any = client.lrange(stage.queue, 0, 0)
            payload = json.loads(found[0])
            payload["body"] = payload["body"][:-8] + "AAAAAAA="
            payload["headers"]["id"] = "forged"
            payload["properties"]["delivery_tag"] = "forged"
            client.lpush(stage.queue, json.dumps(payload))
        with signing_worker(stage, keys) as worker:
            (letter,) = stage.wait_letters(1, what=worker.log)
            assert (letter.reason, letter.message.task_id) == ("bad_signature", "forged"), letter.error
            with redis.client(RESULT_DB) as results:
                eventually(lambda: results.get(f"celery-task-meta-{good}"), what=worker.log)
                assert results.get("celery-task-meta-forged") is None


@pytest.mark.parametrize(
    ("variables", "level", "message"),
    [
        ({}, "ok", "a result is stored and read again"),
        ({"SIGNING_RESULTS": "json"}, "error", "result_serializer is 'json', but results of that kind"),
    ],
    ids=["signed", "refused"],
)
def test_doctor_makes_the_round_trip_of_signatures(
    redis: RedisServer, keys: Path, variables: dict[str, str], level: str, message: str
) -> None:
    with Stage.on(redis, redis.url(0)) as stage:
        done = run(stage, keys, "-m", "celery_patterns.cli", "doctor", "-A", APP, "--json", **variables)
    assert done.returncode in (0, 1), done.stderr
    found = [each for each in json.loads(done.stdout) if each["check"] in ("messages", "results")]
    assert {
        "level": "ok",
        "check": "messages",
        "message": "a message written with 'auth' is accepted, signed",
    }.items() <= (next(each for each in found if each["check"] == "messages").items())
    results = [(each["level"], each["message"]) for each in found if each["check"] == "results"]
    assert any(each[0] == level and each[1].startswith(message) for each in results), results
