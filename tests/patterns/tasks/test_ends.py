"""What becomes of tasks that fail for good, and of arguments that are too large."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TimeLimitExceeded, WorkerLostError

from celery_patterns.resilience.letters import Letter
from celery_patterns.resilience.places import letters_of
from celery_patterns.resilience.replay import Replays
from celery_patterns.tasks.errors import PayloadUnavailable, RateExceeded
from celery_patterns.tasks.payload import PayloadTooLarge, purge_claims
from patterns.tasks import shop
from servers import eventually

Ledger = Callable[..., list[dict[str, Any]]]

pytestmark = pytest.mark.usefixtures("worker")


@pytest.mark.parametrize(
    ("how", "error", "reason", "attempts"),
    [
        ("raise", KeyError, "failed", 1),
        ("flaky", shop.Flaky, "failed", 2),
        ("kill", WorkerLostError, "worker_lost", 2),
        ("sleep", TimeLimitExceeded, "timeout", 1),
    ],
)
def test_a_task_that_failed_for_good_leaves_one_letter_with_its_message(
    how: str, error: type[Exception], reason: str, attempts: int
) -> None:
    """In a worker without the agent: the policy brings what it needs."""
    result = shop.doomed.apply_async([how], time_limit=1 if how == "sleep" else None)
    with pytest.raises(error):
        result.get(timeout=60)
    [letter] = eventually(lambda: letters(result.id))
    assert (letter.reason, letter.attempts, letter.queue, letter.original) == (reason, attempts, "celery", True)
    assert letter.error.startswith(error.__name__)
    assert json.loads(letter.message.body)[:2] == [[how], {}]


def letters(task_id: str) -> list[Letter]:
    """Return the letters of one task."""
    return [letter for letter in letters_of(shop.app).scan("celery") if letter.message.task_id == task_id]


def test_a_task_that_a_policy_refused_leaves_a_letter(key: str) -> None:
    allowed, refused = shop.call_strictly.delay(key), shop.call_strictly.delay(key)
    with pytest.raises(RateExceeded):
        [result.get(timeout=60) for result in (allowed, refused)]
    [letter] = eventually(lambda: letters(refused.id) or letters(allowed.id))
    assert (letter.reason, letter.attempts, json.loads(letter.message.body)[:2]) == ("refused", 1, [[key], {}])


def test_an_item_of_a_batch_that_failed_for_good_leaves_a_letter_that_can_be_sent_again(
    ledger: Ledger, key: str
) -> None:
    """Its message was gone when it joined the batch, and the letter says that it was written anew."""
    result = shop.insert_rows.delay(table=key, row="bad")
    with pytest.raises(shop.Flaky):
        result.get(timeout=60)
    [letter] = eventually(lambda: letters(result.id))
    assert (letter.reason, letter.error, letter.original, letter.attempts) == ("failed", "Flaky: bad", False, 1)
    with Replays(shop.app) as replays:
        replays.send(letter)
    eventually(lambda: [entry["rows"] for entry in ledger(key, "batch")] == [["bad"], ["bad"]])


def test_large_arguments_travel_by_claim_check_also_through_a_retry(blobs: Path, blob_worker: str) -> None:
    result = shop.measure.apply_async(["x" * 5_000], {"other": "small", "fail_first": True}, queue=blob_worker)
    assert result.get(timeout=60) == {"text": 5_000, "other": 5, "attempt": 2}
    [stored] = [path for path in blobs.rglob("*") if path.is_file()]
    assert stored.stat().st_size > 5_000
    assert purge_claims(f"file://{blobs}", "1d") == 0


def test_a_payload_that_is_gone_or_damaged_is_the_tasks_failure(blobs: Path, blob_worker: str) -> None:
    damaged = shop.measure.apply_async(["y" * 5_000], queue=blob_worker, countdown=1)
    [stored] = [path for path in blobs.rglob("*") if path.is_file()]
    stored.write_bytes(b"something else")
    with pytest.raises(PayloadUnavailable, match="its hash differs"):
        damaged.get(timeout=60)
    gone = shop.measure.apply_async(["z" * 5_000], queue=blob_worker, countdown=1)
    for path in blobs.rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(PayloadUnavailable, match="any more"):
        gone.get(timeout=60)


def test_a_place_that_cannot_be_read_for_a_while_is_asked_again(blobs: Path, blob_worker: str) -> None:
    """An error of the store of payloads is one that the task's Retry is asked about, like the task's own."""
    result = shop.measure_patiently.apply_async(["w" * 5_000], queue=blob_worker, countdown=1)
    [stored] = [path for path in blobs.rglob("*") if path.is_file()]
    aside = stored.rename(blobs / "aside")
    stored.symlink_to(blobs)  # a directory, which the file then replaces in one step: it is at no time missing
    eventually(lambda: result.state == "RETRY")
    aside.replace(stored)
    assert result.get(timeout=60) == 5_000


def test_without_a_place_a_large_call_is_refused_at_once() -> None:
    with pytest.raises(PayloadTooLarge, match=r"its arguments have \d+ bytes, and 1000 are allowed"):
        shop.measure.delay("x" * 5_000)


@pytest.mark.usefixtures("blobs")
def test_a_worker_that_knows_no_place_says_so() -> None:
    with pytest.raises(PayloadUnavailable, match="CELERY_PATTERNS_BLOB_URL"):
        shop.measure.delay("x" * 5_000).get(timeout=60)


def test_small_calls_stay_whole(blobs: Path) -> None:
    assert shop.measure.delay("x" * 500).get(timeout=60) == {"text": 500, "other": 0, "attempt": 1}
    assert list(blobs.iterdir()) == []
