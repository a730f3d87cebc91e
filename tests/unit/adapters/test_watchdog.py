from __future__ import annotations

import threading

import pytest

from celery_operator.adapters.watchdog import Watchdog


class Time:
    """A monotonic clock that is set by hand."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_in_time_before_the_first_renewal() -> None:
    assert not Watchdog(8.0, Time(), pytest.fail).in_time


def test_it_strikes_once_when_the_deadline_has_passed() -> None:
    time, struck = Time(), threading.Event()
    watchdog = Watchdog(8.0, time, struck.set, look_every_seconds=0.01)
    watchdog.renewed(time())
    time.now += 7.9
    assert watchdog.in_time
    assert not struck.wait(0.1)
    time.now += 0.1
    assert struck.wait(5.0)
    watchdog.stop()


def test_lateness_shows_without_the_thread() -> None:
    time = Time()
    watchdog = Watchdog(8.0, time, lambda: None)
    watchdog.renewed(time())
    time.now += 8.0
    assert not watchdog.in_time
    watchdog.stop()


def test_renewals_hold_it_off_and_count_from_when_they_were_asked_for() -> None:
    time, struck = Time(), threading.Event()
    watchdog = Watchdog(8.0, time, struck.set, look_every_seconds=0.01)
    for _ in range(5):
        asked_at = time()
        time.now += 6.0
        watchdog.renewed(asked_at)
    assert not struck.wait(0.1)
    time.now += 2.0
    assert struck.wait(5.0)
    watchdog.stop()


def test_stopped_it_never_strikes() -> None:
    time, struck = Time(), threading.Event()
    watchdog = Watchdog(8.0, time, struck.set, look_every_seconds=0.01)
    watchdog.renewed(time())
    watchdog.stop()
    time.now += 100.0
    assert not struck.wait(0.1)
    assert not watchdog.in_time
