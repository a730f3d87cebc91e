"""Processes that test on one cluster know who is first and who is last."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from support.shared_run import SharedRun


@pytest.fixture
def run(tmp_path: Path) -> SharedRun:
    return SharedRun(tmp_path, "one")


def test_first_prepares_and_last_tidies_up(run: SharedRun) -> None:
    assert [run.enter(), run.enter(), run.leave(), run.enter(), run.leave(), run.leave()] == [
        *(True, False),
        *(False, False),
        *(False, True),
    ]


def test_who_comes_when_all_have_gone_is_first_again(run: SharedRun) -> None:
    assert [run.enter(), run.leave(), run.enter(), run.leave()] == [True, True, True, True]


def test_an_interrupted_run_is_forgotten(run: SharedRun, tmp_path: Path) -> None:
    run.enter()
    following = SharedRun(tmp_path, "two")
    assert [following.enter(), following.leave()] == [True, True]


def test_one_at_a_time_is_alone(run: SharedRun, tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def other() -> None:
        waits.set()
        with SharedRun(tmp_path, "one").alone():
            order.append("other")

    with run.alone():
        thread = threading.Thread(target=other)
        thread.start()
        waits.wait(5)
        thread.join(0.2)
        order.append("first")
    thread.join(5)
    assert order == ["first", "other"]
