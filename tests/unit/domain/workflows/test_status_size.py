"""The quick look at a status' size never lets through what the exact one would cut."""

from __future__ import annotations

from celery_operator.api.workflow import OutputValue, StepStatus, WorkflowStatus
from celery_operator.domain.workflows.bounds import STATUS_BYTES, bounded, size_of


def _status(characters: int, letter: str = "x") -> WorkflowStatus:
    return WorkflowStatus(outputs=[OutputValue(name="text", value=letter * characters)])


def test_a_status_at_the_bound_is_kept_whole_and_one_byte_above_it_is_cut() -> None:
    room = STATUS_BYTES - size_of(_status(0))
    assert bounded(_status(room)) == _status(room)
    assert bounded(_status(room + 1)).outputs == []


def test_letters_count_as_the_bytes_that_they_take() -> None:
    room = (STATUS_BYTES - size_of(_status(0))) // 2
    assert bounded(_status(room, "é")) == _status(room, "é")
    assert bounded(_status(room + 1, "é")).outputs == []


def test_half_a_surrogate_pair_in_an_output_is_measured_all_the_same() -> None:
    assert bounded(_status(3, "\ud800")) == _status(3, "\ud800")
    assert bounded(_status(STATUS_BYTES, "\ud800")).outputs == []


def test_many_steps_are_cut_to_what_fits() -> None:
    steps = [
        StepStatus(name=f"step-{number}", type="Task", state="Succeeded", message="m" * 99) for number in range(999)
    ]
    assert size_of(bounded(WorkflowStatus(steps=steps))) <= STATUS_BYTES
