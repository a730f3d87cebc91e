"""What a claim says of the retry that follows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry

from celery_patterns.agent.next_retry import LONGEST_SECONDS, NextRetry, next_retry
from celery_patterns.protocol import RETRY_NOTE_BYTES, TRIES_HEADER, RetryNote
from celery_patterns.tasks.headers import Tries

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
EAST = timezone(timedelta(hours=2))
REQUEST: dict[str, Any] = {"delivery_info": {"exchange": "", "routing_key": "shop"}}


def seconds(when: Any) -> float | None:
    found = next_retry(Retry(when=when), REQUEST, NOW, EAST)
    return None if found is None else found.seconds


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        pytest.param(0, 0.0, id="at once"),
        pytest.param(7.5, 7.5, id="countdown"),
        pytest.param(-3, 0.0, id="in the past"),
        pytest.param(NOW + timedelta(minutes=1), 60.0, id="eta"),
        pytest.param((NOW + timedelta(minutes=1)).astimezone(EAST), 60.0, id="eta in another zone"),
        pytest.param("2026-11-22T12:00:09+00:00", 9.0, id="eta as text"),
        pytest.param(datetime(2026, 11, 22, 12, 0, 5), 5.0, id="eta without a zone, which Celery takes for UTC"),  # noqa: DTZ001
        pytest.param(datetime(9999, 1, 1, tzinfo=UTC), LONGEST_SECONDS, id="never"),
        pytest.param(float("nan"), None, id="no time"),
        pytest.param("tomorrow", None, id="no time in a text"),
        pytest.param(None, None, id="not told: raised without publishing anything"),
    ],
)
def test_it_is_due_when_celery_says(when: Any, expected: float | None) -> None:
    assert seconds(when) == expected


def test_it_says_where_the_message_went_and_what_the_patterns_counted() -> None:
    app = Celery("a", set_as_current=False)
    tries = Tries(2, deferrals=3, first_at=5.0).to_header()
    sent = app.signature("t", queue="slow", headers={TRIES_HEADER: tries, "other": "x" * 5000})
    reason = Retry(when=1, sig=sent)
    assert next_retry(reason, REQUEST, NOW, EAST) == NextRetry(1.0, RetryNote("slow", tries))
    same = Retry(when=1, sig=app.signature("t", queue="shop"))
    assert next_retry(same, REQUEST, NOW, EAST) == NextRetry(1.0, RetryNote())


@pytest.mark.parametrize(
    "note", [RetryNote(), RetryNote("q"), RetryNote("", {"attempt": 2}), RetryNote("q", {"a": [1]})]
)
def test_a_note_is_read_as_it_was_written(note: RetryNote) -> None:
    assert RetryNote.from_text(note.to_text()) == note


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"q": 1, "t": []}', "[" * 100_000])
def test_a_note_that_cannot_be_read_says_nothing(text: str) -> None:
    assert RetryNote.from_text(text) == RetryNote()


def test_a_note_stays_small() -> None:
    assert RetryNote("q", {"x": "y" * RETRY_NOTE_BYTES}).to_text() == ""
