"""A failpoint ends the process as often as it was told, and otherwise does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from celery_operator.adapters.failpoints import EXIT_CODE, ending_at
from celery_operator.services.failpoints import Failpoint, never

PROGRAM = """
import sys, pathlib
from celery_operator.adapters.failpoints import ending_at
from celery_operator.services.failpoints import Failpoint
reached = ending_at("after-publish", 2, hits_file=pathlib.Path(sys.argv[1]))
reached(Failpoint.AFTER_CHECKPOINT)
reached(Failpoint.AFTER_PUBLISH)
"""


def test_the_process_ends_there_twice_and_then_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "hits")]
    codes = [subprocess.run(command, check=False, timeout=30).returncode for _ in range(3)]
    assert codes == [EXIT_CODE, EXIT_CODE, 0]


def test_without_a_failpoint_nothing_happens() -> None:
    assert ending_at(None, 1) is never
    never(Failpoint.AFTER_PUBLISH)


def test_an_unknown_failpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="somewhere"):
        ending_at("somewhere", 1)
