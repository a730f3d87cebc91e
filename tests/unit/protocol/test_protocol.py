"""The contract between operator and worker: what one side writes, the other reads."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_patterns import protocol
from celery_patterns.protocol import Announcement, ResultReference, TaskIdentity, WorkerState

UID = "7e2cf5a8-3a8f-4f55-9d3c-0f6a3b0f5b11"
identities = st.builds(
    TaskIdentity,
    uid=st.just(UID),
    run=st.integers(1, 99),
    step=st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True),
    index=st.integers(0, 10**6),
    attempt=st.integers(1, 101),
    values_inline=st.booleans(),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def over_the_wire(body: Any) -> Any:
    return json.loads(json.dumps(body))


@given(identities)
def test_an_identity_is_read_as_it_was_written(identity: TaskIdentity) -> None:
    assert TaskIdentity.from_header(over_the_wire(identity.to_header())) == identity


@given(identities, identities)
def test_two_attempts_share_an_id_only_if_they_are_the_same(one: TaskIdentity, other: TaskIdentity) -> None:
    def place(identity: TaskIdentity) -> tuple[object, ...]:
        return (identity.run, identity.step, identity.index, identity.attempt)

    assert (one.task_id == other.task_id) == (place(one) == place(other))
    assert uuid.UUID(one.task_id).version == 5


@pytest.mark.parametrize(
    "header",
    [None, "x", {}, {"v": 2, "uid": UID, "run": 1, "step": "s", "index": 0, "attempt": 1}, {"v": 1, "uid": UID}],
)
def test_a_header_of_somebody_else_is_no_identity(header: Any) -> None:
    assert TaskIdentity.from_header(header) is None


@given(
    st.builds(
        Announcement,
        identity=identities,
        state=st.sampled_from(["STARTED", "SUCCESS", "FAILURE", "RETRY", "REVOKED", "REJECTED"]),
        size=st.integers(0, 10**9),
        worker=st.text(max_size=20),
    ),
    json_values,
)
def test_an_announcement_is_read_as_it_was_written(announcement: Announcement, value: Any) -> None:
    assert Announcement.from_json(over_the_wire(announcement.to_json())) == announcement
    with_value = Announcement(announcement.identity, "SUCCESS", value=value, has_value=True)
    assert Announcement.from_json(over_the_wire(with_value.to_json())) == with_value


def test_a_result_that_is_null_is_a_value() -> None:
    told = Announcement(TaskIdentity(UID, 1, "s", 0, 1), "SUCCESS", value=None, has_value=True)
    heard = Announcement.from_json(over_the_wire(told.to_json()))
    assert heard is not None
    assert heard.has_value


@given(
    st.builds(
        ResultReference,
        uid=st.just(UID),
        run=st.integers(1, 9),
        step=st.just("count"),
        start=st.integers(0, 50),
        stop=st.none() | st.integers(51, 60),
        attempts=st.lists(st.tuples(st.integers(0, 60), st.integers(2, 5)), max_size=3).map(tuple),
        missing=st.lists(st.integers(0, 60), max_size=3).map(tuple),
        path=st.none() | st.just("$.a"),
    )
)
def test_a_reference_is_read_as_it_was_written_and_names_one_id_for_each_item(reference: ResultReference) -> None:
    assert ResultReference.from_json(over_the_wire(reference.to_json())) == reference
    ids = reference.task_ids()
    assert len(ids) == (1 if reference.stop is None else reference.stop - reference.start)
    attempts = dict(reference.attempts)
    for index, task_id in enumerate(ids, reference.start):
        expected = protocol.task_id(UID, reference.run, "count", index, attempts.get(index, 1))
        assert task_id == (None if index in reference.missing else expected)


@pytest.mark.parametrize("value", [1, "x", [], {}, {"a": 1}, {protocol.REFERENCE_KEY: {}, "b": 1}])
def test_an_ordinary_value_is_no_reference(value: Any) -> None:
    assert ResultReference.from_json(value) is None


def test_a_workers_state_is_read_as_it_was_written_and_unknown_fields_are_ignored() -> None:
    state = WorkerState("w@h", slots=2, active=1, reserved=0, scheduled=3, queues=("a", "b"), finished={"SUCCESS": 4})
    body = over_the_wire(state.to_json())
    assert WorkerState.from_json({**body, "later": 1}) == state


@pytest.mark.parametrize("body", [None, [], {"hostname": "w"}])
def test_what_is_no_state_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match="/state"):
        WorkerState.from_json(body)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://me:secret@host:6379/0", "redis://***@host:6379/0"),
        ("redis://me:pa/ss@host/0", "redis://***@host/0"),
        ("amqp://u:p@w@host//", "amqp://***@host//"),
        ("cannot reach redis://:x@a/0 nor amqps://u@b", "cannot reach redis://***@a/0 nor amqps://***@b"),
        ("redis://host/0", "redis://host/0"),
        ("mail me@home", "mail me@home"),
    ],
)
def test_no_url_shows_its_credentials(text: str, masked: str) -> None:
    assert protocol.mask_url(text) == masked


def test_a_queue_is_four_lists() -> None:
    assert protocol.priority_keys("mail", "p:") == ("p:mail", "p:mail\x06\x163", "p:mail\x06\x166", "p:mail\x06\x169")
