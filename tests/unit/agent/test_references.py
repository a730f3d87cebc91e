"""References in arguments are replaced by the results they name, all read at once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from celery_patterns import protocol
from celery_patterns.agent.references import READ_AT_ONCE, ReferenceUnavailable, resolve

UID = str(uuid.UUID(int=7))


class Results:
    """A result backend that counts how often it is asked."""

    def __init__(self, values: dict[tuple[str, int, int], Any], status: str = protocol.SUCCESS) -> None:
        self.records = {
            protocol.task_id(UID, 1, step, index, attempt): {"status": status, "result": value}
            for (step, index, attempt), value in values.items()
        }
        self.asked: list[int] = []

    def read(self, task_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        self.asked.append(len(task_ids))
        return [self.records.get(task_id) for task_id in task_ids]


def reference(step: str, **more: Any) -> dict[str, Any]:
    return protocol.ResultReference(uid=UID, run=1, step=step, **more).to_json()


def test_arguments_without_references_are_left_alone_and_nothing_is_read() -> None:
    results = Results({})
    args, kwargs = [1, {"a": [None]}], {"b": "c"}
    assert resolve(args, kwargs, results.read) == (args, kwargs, False)
    assert results.asked == []


def test_references_anywhere_are_replaced_by_one_reading() -> None:
    results = Results({("a", 0, 1): 4, ("b", 0, 1): {"x": [10, 20]}})
    args = [reference("a"), [1, {"deep": reference("a")}]]
    kwargs = {"value": reference("b", path="$.x[1]"), "plain": 5}
    assert resolve(args, kwargs, results.read) == ([4, [1, {"deep": 4}]], {"value": 20, "plain": 5}, True)
    assert results.asked == [2]


def test_fan_out_is_a_list_in_order_with_its_attempts_and_holes() -> None:
    results = Results({("map", 0, 1): "a", ("map", 1, 3): "b", ("map", 3, 1): "d"})
    argument = reference("map", stop=4, attempts=((1, 3),), missing=(2,))
    assert resolve([argument], {}, results.read)[0] == [["a", "b", None, "d"]]


def test_slice_of_a_fan_out() -> None:
    results = Results({("map", index, 1): index for index in range(10)})
    assert resolve([reference("map", start=3, stop=6)], {}, results.read)[0] == [[3, 4, 5]]


def test_single_task_of_a_fan_out_is_its_value() -> None:
    results = Results({("map", 7, 1): "seven"})
    assert resolve([reference("map", start=7)], {}, results.read)[0] == ["seven"]


def test_large_fan_out_is_read_in_bounded_pieces() -> None:
    count = READ_AT_ONCE * 2 + 1
    results = Results({("map", index, 1): index for index in range(count)})
    assert resolve([reference("map", stop=count)], {}, results.read)[0] == [list(range(count))]
    assert results.asked == [READ_AT_ONCE, READ_AT_ONCE, 1]


def test_result_that_is_a_reference_itself_is_data() -> None:
    inner = reference("other")
    results = Results({("a", 0, 1): inner})
    assert resolve([reference("a")], {}, results.read)[0] == [inner]


@pytest.mark.parametrize(
    ("argument", "status", "sentence"),
    [
        (
            reference("gone"),
            protocol.SUCCESS,
            "the result of step 'gone', index 0, of run 1 is not in the result backend: it has expired (see the "
            "setting result_expires) or was deleted",
        ),
        (
            reference("a"),
            protocol.FAILURE,
            "the result of step 'a', index 0, of run 1 is not a success: its state is FAILURE",
        ),
        (
            reference("a", stop=2),
            protocol.SUCCESS,
            "the result of step 'a', index 1, of run 1 is not in the result backend: it has expired (see the "
            "setting result_expires) or was deleted",
        ),
        (
            reference("a", path="$.x"),
            protocol.SUCCESS,
            "the result of step 'a': the path '$.x' selects nothing: $ is a number and has no member 'x'",
        ),
        (
            {protocol.REFERENCE_KEY: {"nonsense": 1}},
            protocol.SUCCESS,
            None,
        ),
    ],
    ids=["expired", "failed", "one item expired", "no such path", "malformed"],
)
def test_value_that_cannot_be_had_is_named(argument: Any, status: str, sentence: str | None) -> None:
    results = Results({("a", 0, 1): 4}, status=status)
    with pytest.raises(ReferenceUnavailable) as raised:
        resolve([argument], {}, results.read)
    if sentence is None:
        assert "the message holds a malformed reference" in str(raised.value)
    else:
        assert str(raised.value) == sentence
