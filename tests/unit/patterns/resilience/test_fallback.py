"""What a task gives instead of its failure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from celery_patterns.resilience.bulkhead import BulkheadFull
from celery_patterns.resilience.circuit import CircuitOpen
from celery_patterns.resilience.fallback import Fallback
from celery_patterns.tasks.errors import DuplicateCall
from celery_patterns.tasks.policy import Call, Instead, PolicyError


def call(**arguments: Any) -> Call:
    sent: list[Any] = []

    def send_task(name: str, **options: Any) -> Any:
        sent.append((name, options))
        return SimpleNamespace(id="id2")

    app = SimpleNamespace(send_task=send_task)
    return Call(task=SimpleNamespace(name="price", app=app, sent=sent), id="id1", token="t", arguments=arguments)


def test_value_stands_in_for_a_call_that_was_not_made_because_what_it_needs_is_away_or_full() -> None:
    fallback = Fallback(value=None)
    assert fallback.on_refusal(call(), CircuitOpen("api", 30)) == Instead(None)
    assert fallback.on_refusal(call(), BulkheadFull("db", 4, 30)) == Instead(None)
    assert Fallback(value=None, on=("transient",)).on_refusal(call(), CircuitOpen("api", 30)) is None


def test_a_duplicate_stays_the_error_that_its_policy_was_asked_for() -> None:
    assert Fallback(value=None).on_refusal(call(), DuplicateCall("runs already")) is None


def test_value_stands_in_for_a_failure_of_the_kinds_it_is_for() -> None:
    fallback = Fallback(value=None, on=("transient",))
    assert fallback.on_failure(call(), ConnectionError()) == Instead(None)
    assert fallback.on_failure(call(), KeyError()) is None


def test_function_is_told_the_error_and_the_arguments() -> None:
    fallback = Fallback(function=lambda error, item: f"{item}: {error}")
    assert fallback.on_failure(call(item="book"), ConnectionError("reset")) == Instead("book: reset")


def test_function_that_fails_leaves_the_tasks_own_failure(caplog: pytest.LogCaptureFixture) -> None:
    assert Fallback(function=lambda error: 1 / len(str(error))).on_failure(call(), ConnectionError()) is None
    assert "the fallback of price[id1] failed itself" in caplog.text


def test_other_task_gets_the_arguments_and_its_id_is_the_result() -> None:
    of = call(item="book")
    assert Fallback(task="price_from_cache").on_failure(of, ConnectionError()) == Instead({"fallback": "id2"})
    options = {"kwargs": {"item": "book"}, "headers": {"fallback_of": "id1"}}
    assert of.task.sent == [("price_from_cache", options)]


def test_other_task_that_cannot_be_sent_leaves_the_tasks_own_failure(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OperationalError("the broker is away")

    of = call(item="book")
    of.task.app.send_task = refuse
    assert Fallback(task="price_from_cache").on_failure(of, ConnectionError()) is None
    assert "the fallback price_from_cache of price[id1] could not be sent" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected exactly one of value=, function= and task=, got 0"),
        ({"value": 1, "task": "x"}, "expected exactly one of value=, function= and task=, got 2"),
        ({"function": 3}, "function: expected something callable, got 3"),
        ({"value": 1, "on": ("never",)}, "on: expected one of transient, throttled, permanent, poison, got 'never'"),
        ({"value": 1, "on": "transient"}, r"on: expected a tuple such as \('transient',\)"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Fallback(**options)
