"""A message is settled when its letter is kept, and not before."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from celery_patterns.resilience import keeper as module
from celery_patterns.resilience.buried_requests import Gate
from celery_patterns.resilience.keeper import Keeper
from celery_patterns.resilience.letters import Letter, OriginalMessage
from celery_patterns.resilience.settings import ResilienceSettings
from celery_patterns.resilience.wire import CONTENT_TYPE, envelope, is_message
from celery_patterns.store import StoreUnavailable
from servers import eventually


class Shelf:
    """Keeps letters in memory, while it is open."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.kept: dict[str, Letter] = {}
        self.asked = 0

    def keep(self, letter: Letter, token: str) -> str:
        self.asked += 1
        if not self.open.is_set():
            raise StoreUnavailable("closed")
        self.kept[token] = letter
        return "1-1"


def letter(number: int) -> Letter:
    return Letter("", "q", "failed", OriginalMessage(b"body", {"id": str(number), "task": "t"}), error="E")


def test_kept_at_once_if_possible() -> None:
    shelf, settled = Shelf(), []
    shelf.open.set()
    keeper = Keeper(shelf)
    keeper.keep(letter(1), lambda: settled.append(1))
    assert (settled, keeper.waiting, len(shelf.kept)) == ([1], 0, 1)


def test_waits_in_order_and_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", (0.01, 0.05))
    shelf, settled = Shelf(), list[int]()
    keeper = Keeper(shelf)
    for number in range(5):
        keeper.keep(letter(number), lambda number=number: settled.append(number))  # type: ignore[misc]
    assert (settled, keeper.waiting) == ([], 5)
    eventually(lambda: shelf.asked > 3)
    shelf.open.set()
    eventually(lambda: len(settled) == 5)
    assert settled == [0, 1, 2, 3, 4]
    assert [each.message.task_id for each in shelf.kept.values()] == ["0", "1", "2", "3", "4"]


def test_what_cannot_be_kept_at_the_end_is_told_and_not_settled(caplog: pytest.LogCaptureFixture) -> None:
    settled: list[int] = []
    keeper = Keeper(Shelf())
    keeper.keep(letter(7), lambda: settled.append(1))
    keeper.stop(0.1)
    assert settled == []
    assert "a dead letter of q is given up (failed, E): headers {'id': '7', 'task': 't'}, body b'body'" in caplog.text


def test_letter_whose_keeping_is_not_answered_at_the_end_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", (0.01, 0.05))
    asked, answer = threading.Event(), threading.Event()

    class Silent(Shelf):
        @override
        def keep(self, letter: Letter, token: str) -> str:
            if self.asked:
                asked.set()
                answer.wait(30)
            return super().keep(letter, token)

    keeper = Keeper(Silent())
    keeper.keep(letter(7))
    asked.wait(10)
    keeper.stop(0.1)
    answer.set()
    assert "a dead letter of q may not be kept, the store has not answered (failed, E): headers" in caplog.text
    assert "is given up" not in caplog.text


def test_letter_that_can_never_be_kept_is_told_and_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def keep(self, letter: Letter, token: str) -> str:
            raise TypeError(letter.queue + token)

    told: list[str] = []
    keeper = Keeper(Broken(), kept=lambda _: told.append("kept"), given_up=lambda _: told.append("given up"))
    keeper.keep(letter(7), lambda: told.append("settled"))
    assert (keeper.waiting, told) == (0, ["given up", "settled"])
    assert "is given up" in caplog.text


def test_beyond_so_many_that_wait_the_oldest_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message, if nothing has acknowledged it early, stays with the broker."""
    monkeypatch.setattr(module, "WAITING_LETTERS", 2)
    settled: list[int] = []
    lost: list[str] = []
    keeper = Keeper(Shelf(), given_up=lambda letter: lost.append(letter.message.task_id))
    for number in range(3):
        keeper.keep(letter(number), lambda number=number: settled.append(number))  # type: ignore[misc]
    assert (lost, keeper.waiting, settled) == (["0"], 2, [])
    keeper.stop(0.1)


def test_letter_that_is_being_kept_is_not_the_one_that_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store answers slowly: meanwhile there are too many, and the worker's end comes."""
    monkeypatch.setattr(module, "WAITING_LETTERS", 2)
    monkeypatch.setattr(module, "PAUSE_SECONDS", (0.01, 0.05))
    asked, answer = threading.Event(), threading.Event()

    class Slow(Shelf):
        @override
        def keep(self, letter: Letter, token: str) -> str:
            if self.asked:
                asked.set()
                answer.wait(10)
            return super().keep(letter, token)

    shelf, settled, lost = Slow(), list[str](), list[str]()
    keeper = Keeper(shelf, given_up=lambda letter: lost.append(letter.message.task_id))
    for number in range(2):
        keeper.keep(letter(number), lambda number=number: settled.append(str(number)))  # type: ignore[misc]
        asked.wait(10)
    for number in (2, 3):
        keeper.keep(letter(number), lambda number=number: settled.append(str(number)))  # type: ignore[misc]
    assert lost == ["1", "2"]
    shelf.open.set()
    answer.set()
    eventually(lambda: settled == ["0", "3"])
    keeper.stop(1.0)
    assert (keeper.waiting, lost, [each.message.task_id for each in shelf.kept.values()]) == (0, ["1", "2"], ["0", "3"])


def test_settling_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    shelf.open.set()
    nothing: list[int] = []
    Keeper(shelf).keep(letter(1), nothing.pop)
    assert "the message of a dead letter cannot be acknowledged: t[1] of q" in caplog.text


def test_gate_holds_in_order_and_opens_once() -> None:
    done: list[int] = []
    gate = Gate()
    act = gate.around(done.append)
    act(1)
    gate.close()
    act(2)
    act(3)
    assert done == [1]
    gate.open()
    gate.open()
    act(4)
    assert done == [1, 2, 3, 4]


@given(st.binary())
def test_garbage_gets_an_envelope_that_kombu_takes(raw: bytes) -> None:
    payload = envelope(raw)
    assert is_message(payload)
    assert payload["content-type"] == CONTENT_TYPE


Any_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["body", "headers", "properties", "delivery_tag"]), inner)
    ),
)


@given(Any_JSON)
def test_what_passes_as_a_message_has_what_kombu_reads(payload: Any) -> None:
    if is_message(payload):
        assert payload["properties"]["delivery_tag"] is not None or "delivery_tag" in payload["properties"]
        assert isinstance(payload["properties"]["delivery_info"], dict)


def test_settings_are_read_and_the_environment_wins() -> None:
    conf = {"patterns_dead_letters": "all", "patterns_max_deliveries": 9, "patterns_dead_letter_retention": "7d"}
    environment = {"CELERY_PATTERNS_MAX_DELIVERIES": "2", "CELERY_PATTERNS_MAX_MESSAGE_BYTES": "1MB"}
    assert ResilienceSettings.of(conf, environment) == ResilienceSettings(
        failures="all", max_deliveries=2, max_message_bytes=1_000_000, retention_seconds=604_800
    )
    assert ResilienceSettings.of({}, {}) == ResilienceSettings()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CELERY_PATTERNS_DEAD_LETTERS": "some"}, "CELERY_PATTERNS_DEAD_LETTERS: expected one of declared, all, none"),
        ({"CELERY_PATTERNS_MAX_DELIVERIES": "-1"}, "CELERY_PATTERNS_MAX_DELIVERIES: expected a whole number"),
        ({"CELERY_PATTERNS_MAX_MESSAGE_BYTES": "big"}, "CELERY_PATTERNS_MAX_MESSAGE_BYTES: expected bytes"),
        ({"CELERY_PATTERNS_DEAD_LETTER_RETENTION": "0s"}, "CELERY_PATTERNS_DEAD_LETTER_RETENTION: expected seconds"),
    ],
)
def test_wrong_setting_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResilienceSettings.of({}, environment)
