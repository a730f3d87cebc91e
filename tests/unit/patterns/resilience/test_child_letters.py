"""What a pool's processes tell of the letters they keep arrives, whatever becomes of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from celery_patterns.resilience import child_letters
from celery_patterns.resilience.child_letters import PATIENCE_SECONDS, ChildLetters
from servers import eventually

CHILDREN, EACH = 3, 1_500
"""More than the pipe holds at a time."""

forked = multiprocessing.get_context("fork")


@pytest.fixture
def counted() -> Iterator[Counter[tuple[str, str]]]:
    counts: Counter[tuple[str, str]] = Counter()
    letters = ChildLetters(lambda queue, reason: counts.update([(queue, reason)]))
    letters.listen()
    yield counts
    letters.close()


def tell_and_die(number: int) -> None:
    for _ in range(EACH):
        child_letters.tell(f"queue-{number}-ä\n", "failed")
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_children_have_told_all_they_kept(counted: Counter[tuple[str, str]]) -> None:
    children = [forked.Process(target=tell_and_die, args=(number,)) for number in range(CHILDREN)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [-signal.SIGKILL] * CHILDREN
    expected = {(f"queue-{number}-ä\n", "failed"): EACH for number in range(CHILDREN)}
    eventually(lambda: counted == expected, what=lambda: str(counted))


def test_main_process_counts_at_once(counted: Counter[tuple[str, str]]) -> None:
    child_letters.tell("q", "worker_lost")
    assert counted == {("q", "worker_lost"): 1}


def test_main_process_that_stands_still_holds_no_child_up_for_ever() -> None:
    """Its letters are kept and not counted, which the log says."""
    busy, go_on = threading.Event(), threading.Event()

    def stand_still(*_: str) -> None:
        busy.set()
        go_on.wait()

    letters = ChildLetters(stand_still)
    letters.listen()
    child = forked.Process(target=tell_until_refused)
    child.start()
    child.join(60 + PATIENCE_SECONDS)
    assert (child.exitcode, busy.is_set()) == (7, True)
    go_on.set()
    letters.close()


def tell_until_refused() -> None:
    said: list[str] = []
    child_letters.logger.warning = lambda text, *values: said.append(text % values)  # type: ignore[method-assign]
    while not said:
        child_letters.tell("q", "failed")
    expected = "a dead letter of q is kept and not counted: the main process stands still"
    os._exit(7 if said == [expected] else 1)
