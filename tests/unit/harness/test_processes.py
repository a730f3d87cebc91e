import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from harness.commands import run, run_logged
from harness.errors import HarnessError
from harness.processes import Process, ProcessRecord, end, identify
from harness.waiting import wait_until

SLEEPER = (sys.executable, "-c", "import time; time.sleep(60)")


def test_a_process_is_not_mistaken_for_a_later_one_with_its_pid() -> None:
    me = identify("me", os.getpid())
    assert me is not None
    assert me.alive()
    assert not Process("before me", me.pid, me.started - 1).alive()


def test_ending_a_process_waits_until_it_is_gone() -> None:
    with subprocess.Popen(SLEEPER) as child:
        process = identify("sleeper", child.pid)
        assert process is not None
        end([process], grace=timedelta(seconds=10))
        assert not process.alive()
    assert child.returncode == -15


def test_the_record_of_processes_survives_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "processes.json"
    assert ProcessRecord(path).read() == ()
    ProcessRecord(path).add(Process("a", 1, 2))
    ProcessRecord(path).add(Process("b", 3, 4))
    assert ProcessRecord(path).read() == (Process("a", 1, 2), Process("b", 3, 4))


def test_a_wait_that_runs_out_says_what_for_and_shows_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {number}\n" for number in range(9)), encoding="utf-8")
    with pytest.raises(HarnessError) as caught:
        wait_until(lambda: False, within=timedelta(0), what="the moon", logs=(log,))
    assert str(caught.value) == (
        f"Waited 0 s in vain for the moon.\nSee {log}, which ends:\n"
        "    line 4\n    line 5\n    line 6\n    line 7\n    line 8"
    )


def test_a_failed_command_is_reported_with_its_own_words() -> None:
    with pytest.raises(HarnessError, match=r"(?s)Failed with exit code 3: sh -c .*no such luck"):
        run(("sh", "-c", "echo no such luck >&2; exit 3"))


def test_a_missing_program_is_reported_by_its_name() -> None:
    with pytest.raises(HarnessError, match="The program 'no-such-program' is not installed"):
        run(("no-such-program",))


def test_a_long_command_is_shown_line_by_line_and_logged(tmp_path: Path) -> None:
    seen: list[str | None] = []
    run_logged(("printf", "a\\nb\\n"), log=tmp_path / "log", within=timedelta(seconds=30), on_line=seen.append)
    assert [line for line in seen if line is not None] == ["a", "b"]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "a\nb\n"


def test_a_long_command_that_exceeds_its_time_is_ended_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(HarnessError, match=f"Not finished after 0 s: sh -c .*\nSee {log}"):
        run_logged(("sh", "-c", "sleep 60 & echo $!; wait"), log=log, within=timedelta(0), on_line=lambda _: None)
    sleeper = int(log.read_text(encoding="utf-8"))
    wait_until(lambda: identify("sleeper", sleeper) is None, within=timedelta(seconds=10), what="the child to end")
