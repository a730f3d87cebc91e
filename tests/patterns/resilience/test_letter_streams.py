"""The letters' Lua: each is kept once, their number and age are bounded, and what was dropped is counted."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_patterns.resilience.letter_streams import LetterStreams
from celery_patterns.resilience.letters import Letter, OriginalMessage
from celery_patterns.store import Store
from servers import eventually

pytestmark = pytest.mark.every_redis


def letter(number: int, queue: str = "q") -> Letter:
    return Letter("", queue, "failed", OriginalMessage(b"\x00\xff", {"id": str(number)}), error=f"E: {number}")


Event = st.tuples(
    st.sampled_from(["keep", "keep", "remove", "flush scripts"]), st.sampled_from("ab"), st.integers(0, 5)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, max_size=40))
def test_letters_are_kept_once_whatever_is_repeated(store: Store, events: list[tuple[str, str, int]]) -> None:
    """The model: ids by token; a letter that was removed does not come back when its keeping is repeated late."""
    store.client.flushdb()
    letters = LetterStreams(store)
    ids: dict[str, str] = {}
    waiting: dict[str, list[str]] = {"a": [], "b": []}
    for kind, queue, number in events:
        token = f"{queue}{number}"
        if kind == "keep":
            kept = letters.keep(letter(number, queue), token)
            if token not in ids:
                waiting[queue].append(kept)
            assert ids.setdefault(token, kept) == kept
        elif kind == "remove" and token in ids:
            assert letters.remove(queue, [ids[token]]) == (ids[token] in waiting[queue])
            waiting[queue] = [each for each in waiting[queue] if each != ids[token]]
        else:
            store.client.script_flush()
        for name, expected in waiting.items():
            assert [each.id for each in letters.scan(name, newest_first=False)] == expected
    assert [key for key in store.client.keys("{*") if store.client.pttl(key) < 0] == []


def test_number_is_bounded_and_what_was_dropped_is_counted(store: Store) -> None:
    letters = LetterStreams(store, longest=100)
    for number in range(450):
        letters.keep(letter(number), str(number))
    counts = letters.queues()["q"]
    # Redis drops whole nodes of a stream, a hundred entries each.
    assert 100 <= counts["waiting"] <= 200
    assert counts["kept"] == 450
    assert counts["dropped"] == 450 - counts["waiting"]
    newest = next(letters.scan("q"))
    assert (newest.error, newest.message.body) == ("E: 449", b"\x00\xff")
    assert len(list(letters.scan("q"))) == counts["waiting"], "every page is read"


def test_purge_by_age_and_of_all(store: Store) -> None:
    letters = LetterStreams(store)
    for number in range(3):
        letters.keep(letter(number), str(number))
    assert letters.purge("q", 60) == 0
    # What is of this very millisecond is not older than now.
    eventually(lambda: letters.purge("q", 0) == 0 and not list(letters.scan("q")))
    letters.keep(letter(9), "9")
    assert letters.purge("q") >= 1
    assert list(letters.scan("q")) == []
    assert letters.get("q", "1-1") is None


def test_flushed_store_is_a_clean_start(store: Store) -> None:
    letters = LetterStreams(store)
    letters.keep(letter(1), "1")
    store.client.flushall()
    assert letters.queues() == {}
    letters.keep(letter(2), "2")
    assert [each.error for each in letters.scan("q")] == ["E: 2"]
