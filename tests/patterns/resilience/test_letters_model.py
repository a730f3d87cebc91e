"""The letters' Lua against a model: kept again after an answer that was lost, removed twice, purged by age, flushed."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_patterns.resilience.letter_streams import KEEP, PURGE, REMOVE, RETENTION_SECONDS, LetterStreams
from celery_patterns.resilience.letters import Letter, OriginalMessage
from patterns.resilience.clocked import ClockedStore, play

pytestmark = pytest.mark.every_redis

queue = st.sampled_from("ab")
Event = st.one_of(
    st.tuples(st.just("keep"), queue, st.integers(0, 5)),
    st.tuples(st.just("keep"), queue, st.integers(0, 5)),
    st.tuples(st.just("remove"), queue, st.lists(st.integers(0, 5), min_size=1, max_size=3)),
    st.tuples(st.just("purge"), queue, st.sampled_from([None, 60.0, 3_600.0])),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 61.0, 4_000.0])),
    st.tuples(st.just("flush")),
    st.tuples(st.just("forget_scripts")),
)


class Stage:
    """Drives the scripts and the model side by side.

    Redis names entries by its own clock, so here time passes for what asks for an age, and letters keep their real one.
    """

    def __init__(self, store: ClockedStore) -> None:
        self.store = store
        self.letters = LetterStreams(store)
        store.set_clock(int(time.time() * 1000))  # noqa: TID251 - the server's own clock names the entries
        self.flush()

    def keep(self, queue: str, number: int) -> None:
        token = f"{queue}{number}"
        message = OriginalMessage(b"\x00\xff", {"id": token})
        kept = self.letters.keep(Letter("", queue, "failed", message), token)
        if token not in self.ids:
            self.ids[token] = kept
            self.waiting[queue].append(kept)
            self.kept[queue] += 1
        assert self.ids[token] == kept

    def remove(self, queue: str, numbers: list[int]) -> None:
        """By hand: letters that are gone, or that are of another queue, are no error."""
        wanted = [self.ids[f"{queue}{number}"] for number in numbers if f"{queue}{number}" in self.ids]
        there = [entry for entry in self.waiting[queue] if entry in wanted]
        assert self.letters.remove(queue, wanted) == len(there)
        self.waiting[queue] = [entry for entry in self.waiting[queue] if entry not in there]

    def purge(self, queue: str, older_seconds: float | None) -> None:
        before = len(self.waiting[queue])
        if older_seconds is None:
            self.waiting[queue] = []
        else:
            edge = self.store.now_ms - int(older_seconds * 1000)
            self.waiting[queue] = [entry for entry in self.waiting[queue] if int(entry.split("-")[0]) >= edge]
        assert self.letters.purge(queue, older_seconds) == before - len(self.waiting[queue])

    def wait(self, seconds: float) -> None:
        # Never beyond the retention: what a stream drops by itself, it drops by whole nodes.
        if self.passed + seconds < RETENTION_SECONDS / 2:
            self.passed += seconds
            self.store.advance(int(seconds * 1000))

    def flush(self) -> None:
        self.store.client.flushdb()
        self.store.set_clock(self.store.now_ms)
        self.passed = 0.0
        self.ids: dict[str, str] = {}
        self.waiting: dict[str, list[str]] = {"a": [], "b": []}
        self.kept = {"a": 0, "b": 0}

    def forget_scripts(self) -> None:
        self.store.client.script_flush()

    def check(self) -> None:
        for queue, expected in self.waiting.items():
            assert [letter.id for letter in self.letters.scan(queue, newest_first=False)] == expected
        assert self.letters.queues() == {
            queue: {"waiting": len(self.waiting[queue]), "kept": kept, "dropped": 0}
            for queue, kept in self.kept.items()
            if kept
        }
        assert self.store.without_ttl() == []


@pytest.mark.models(KEEP, PURGE, REMOVE)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(Event, max_size=40))
def test_letters_do_what_their_model_does(clocked: ClockedStore, events: list[tuple[Any, ...]]) -> None:
    """A letter that was removed or purged does not come back when its keeping is repeated late."""
    play(Stage(clocked), clocked, events)
