"""What is wrong with a task message is said field by field, before Celery takes it."""

from __future__ import annotations

from typing import Any

import pytest

from celery_patterns.resilience.message_form import MalformedMessage, check

HEADERS: dict[str, Any] = {"task": "ok", "id": "i1", "retries": 0, "timelimit": [None, None], "eta": None}
BODY: list[Any] = [["a"], {"b": 1}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, BODY),
        ({"retries": 3, "timelimit": [10, 5.5], "expires": "2026-11-22T12:00:00+00:00"}, BODY),
        ({"eta": "2026-11-22T12:00:00", "stamped_headers": ["s"], "stamps": {"s": [1]}}, BODY),
        ({"timelimit": None, "retries": None}, [(), {}, None]),
        ({}, [[], {}, {"callbacks": [{"task": "t"}], "errbacks": ["t", {"task": "t"}], "chain": [{}], "chord": {}}]),
    ],
    ids=["as Celery writes it", "limits", "dates and stamps", "nothing said", "canvas"],
)
def test_message_that_celery_can_run_passes(headers: dict[str, Any], body: Any) -> None:
    check({**HEADERS, **headers}, body)


def test_messages_of_the_first_protocol_pass() -> None:
    check({}, {"task": "ok", "id": "i1", "args": ["a"], "kwargs": {}})
    check({}, {"task": "ok", "id": "i1"})
    check({"task": "ok", "id": "i1"}, {"args": ["a"], "kwargs": {}, "retries": 2})


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"task": ["ok"]}, "task: expected a text, got the list ['ok']"),
        ({"id": None}, "id: expected a text, got nothing"),
        ({"id": ""}, "id: expected a text, got the str ''"),
        ({"id": 7}, "id: expected a text, got the int 7"),
        ({"retries": "many"}, "retries: expected a whole number from 0, got the str 'many'"),
        ({"retries": -1}, "retries: expected a whole number from 0, got the int -1"),
        ({"eta": "soon"}, "eta: expected a date such as 2026-11-22T12:00:00+00:00, got the str 'soon'"),
        ({"stamps": 5}, "stamps: expected a mapping or null, got the int 5"),
        ({"stamped_headers": "s"}, "stamped_headers: expected a list or null, got the str 's'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_header_is_named_with_what_was_expected(headers: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        check({**HEADERS, **headers}, BODY)
    assert str(caught.value) == message


@pytest.mark.parametrize("limits", ["abc", 5, [1], ["a", "b"], [-1, -1], [float("nan"), None], [True, None]], ids=repr)
def test_time_limits_that_would_end_the_worker_are_refused(limits: Any) -> None:
    with pytest.raises(MalformedMessage, match="timelimit: expected a list of two, hard and soft, each null or"):
        check({**HEADERS, "timelimit": limits}, BODY)


@pytest.mark.parametrize("name", ["eta", "expires"])
@pytest.mark.parametrize(
    "value", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", 17, {"a": 1}, ""], ids=repr
)
def test_date_that_some_time_zone_cannot_express_is_refused(name: str, value: Any) -> None:
    with pytest.raises(MalformedMessage, match=f"^{name}: expected a date such as"):
        check({**HEADERS, name: value}, BODY)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("abc", "the body: expected a list of args, kwargs and embed, or a mapping with 'task' and 'id', got the str"),
        ([[], {}], "the body: expected a list of args"),
        (None, "the body: expected a list of args, kwargs and embed, or a mapping with 'task' and 'id', got nothing"),
        (["abc", {}, {}], "args: expected a list, got the str 'abc'"),
        ([[], [1], {}], r"kwargs: expected a mapping of names, got the list \[1\]"),
        ([[], {1: 2}, {}], "kwargs: expected a mapping of names, got the dict"),
        ([[], {}, 7], "embed: expected a mapping or null, got the int 7"),
        ([[], {}, {"callbacks": 3}], "callbacks: expected a list or null, got the int 3"),
        ([[], {}, {"chain": [5]}], r"chain: expected a list of signatures, got the list \[5\]"),
        ([[], {}, {"chord": "x"}], "chord: expected a mapping or null, got the str 'x'"),
        ({"task": "ok", "id": "i1", "args": 5}, "args: expected a list, got the int 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_body_is_named_with_what_was_expected(body: Any, message: str) -> None:
    with pytest.raises(MalformedMessage, match=f"^{message}"):
        check(HEADERS, body)


def test_what_is_shown_is_short_and_without_credentials() -> None:
    with pytest.raises(MalformedMessage) as caught:
        check({**HEADERS, "retries": "redis://user:secret@host/" + "x" * 10_000}, BODY)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 200
