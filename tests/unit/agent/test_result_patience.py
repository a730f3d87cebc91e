"""A result that cannot be stored is tried again while its server is in trouble, and never lost without a word."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ResponseError

from celery_patterns.agent import result_patience


class Backend:
    """Fails as often as it is told."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.stored: list[tuple[Any, ...]] = []

    def store_result(self, task_id: str, result: Any, state: str, **options: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        self.stored.append((task_id, result, state, options))
        return result


@pytest.fixture
def backend() -> type[Backend]:
    patient = type("Patient", (Backend,), {"store_result": Backend.store_result})
    result_patience.install(patient)
    result_patience.install(patient)
    return patient


@pytest.mark.parametrize("error", [OutOfMemoryError, BusyLoadingError], ids=lambda kind: kind.__name__)
def test_result_is_stored_when_the_server_is_well_again(
    backend: type[Backend], caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    patient = backend(error("no"), error("no"))
    assert patient.store_result("t1", 8, "SUCCESS", request=None) == 8
    assert patient.stored == [("t1", 8, "SUCCESS", {"request": None})]
    assert [record.getMessage() for record in caplog.records] == [
        "the result of task t1 cannot be stored yet: no",
        "the result of task t1 is stored now",
    ]


def test_error_of_what_was_asked_is_raised_at_once(backend: type[Backend]) -> None:
    patient = backend(ResponseError("string exceeds maximum allowed size"))
    with pytest.raises(ResponseError):
        patient.store_result("t1", 8, "SUCCESS")
    assert patient.stored == []


def test_result_that_is_given_up_is_told_of_without_credentials(
    backend: type[Backend], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_patience, "PATIENCE_SECONDS", 0.3)
    patient = backend(*[OutOfMemoryError("redis://u:secret@h is full")] * 50)
    with pytest.raises(OutOfMemoryError):
        patient.store_result("t1", 8, "SUCCESS")
    last = caplog.records[-1]
    assert (last.levelno, last.getMessage()) == (
        logging.CRITICAL,
        "the result of task t1 is lost, it cannot be stored: redis://***@h is full",
    )
