"""What is announced of an exception's text never shows a password, wherever it is cut."""

from __future__ import annotations

import time

import pytest

from celery_patterns.agent.announcer import LOOKED_AT_CHARACTERS, announced
from celery_patterns.protocol import MESSAGE_CHARACTERS

URL = "redis://user:secret@redis.shop:6379/0"


@pytest.mark.parametrize("before", range(MESSAGE_CHARACTERS - len(URL) - 2, MESSAGE_CHARACTERS + 2))
def test_url_at_the_cut_is_masked_before_it_is_cut(before: int) -> None:
    text = announced("x" * (before - 1) + " " + URL + " does not answer")
    assert len(text) <= MESSAGE_CHARACTERS
    assert "user" not in text
    assert "sec" not in text


@pytest.mark.parametrize("password", [LOOKED_AT_CHARACTERS, LOOKED_AT_CHARACTERS * 3])
def test_password_longer_than_what_is_looked_at_is_masked(password: int) -> None:
    assert announced(f"cannot connect to redis://user:{'s' * password}@host/0") == "cannot connect to redis://***@"


def test_short_text_is_announced_as_it_is() -> None:
    assert announced("the amount 0 is wrong") == "the amount 0 is wrong"
    assert announced("") == ""


def test_long_text_is_cut_and_takes_no_time() -> None:
    """A text of ten megabytes must not stop the worker's main process."""
    began = time.process_time()
    assert announced("a" * 10_000_000) == "a" * MESSAGE_CHARACTERS
    assert announced("a://" * 2_500_000) == "a://***@"
    assert time.process_time() - began < 5
