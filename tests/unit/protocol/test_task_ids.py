"""Task ids are uuid5, whoever computes them."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from celery_patterns.protocol import TaskIdentity, task_id


@given(st.uuids(), st.integers(1, 99), st.text(min_size=1, max_size=63), st.integers(0, 10**6), st.integers(1, 99))
def test_an_id_is_the_uuid5_of_the_workflow_and_the_attempt(
    uid: uuid.UUID, run: int, step: str, index: int, attempt: int
) -> None:
    expected = str(uuid.uuid5(uid, f"{run}/{step}/{index}/{attempt}"))
    assert task_id(str(uid), run, step, index, attempt) == expected
    assert TaskIdentity(str(uid), run, step, index, attempt).task_id == expected
