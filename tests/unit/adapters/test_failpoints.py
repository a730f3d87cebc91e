"""A failpoint ends or holds the process as often as it was told, and otherwise does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from celery_operator.adapters import failpoints
from celery_operator.adapters.failpoints import EXIT_CODE, acting_at
from celery_operator.services.failpoints import Failpoint, FailpointAction, never

PROGRAM = """
import sys, pathlib
from celery_operator.adapters.failpoints import acting_at
from celery_operator.services.failpoints import Failpoint, FailpointAction
reached = acting_at("after-publish", 2, FailpointAction.END, hits_file=pathlib.Path(sys.argv[1]))
reached(Failpoint.AFTER_CHECKPOINT)
reached(Failpoint.AFTER_PUBLISH)
"""


def test_the_process_ends_there_twice_and_then_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "hits")]
    codes = [subprocess.run(command, check=False, timeout=30).returncode for _ in range(3)]
    assert codes == [EXIT_CODE, EXIT_CODE, 0]


def test_the_process_stands_still_there_once_and_says_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    monkeypatch.setattr(failpoints, "time", SimpleNamespace(sleep=lambda seconds: happened.append(f"{seconds:g} s")))
    monkeypatch.setattr(failpoints, "log", SimpleNamespace(info=lambda event, **_: happened.append(event)))
    reached = acting_at("after-publish", 1, FailpointAction.HOLD, hits_file=tmp_path / "hits")
    for point in (Failpoint.AFTER_CHECKPOINT, Failpoint.AFTER_PUBLISH, Failpoint.AFTER_PUBLISH):
        reached(point)
    assert happened == ["standing at a failpoint", "5 s", "going on from a failpoint"]


def test_without_a_failpoint_nothing_happens() -> None:
    assert acting_at(None, 1, FailpointAction.END) is never
    never(Failpoint.AFTER_PUBLISH)


def test_an_unknown_failpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="somewhere"):
        acting_at("somewhere", 1, FailpointAction.END)
