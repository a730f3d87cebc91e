"""A hard time limit: what a task holds is free when its process is gone, and not before."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from celery_patterns.tasks.child_process import kill_and_wait
from celery_patterns.tasks.request import PatternRequest

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"


def deaf_child() -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_child_is_gone_and_can_still_be_reaped() -> None:
    with deaf_child() as child:
        assert kill_and_wait(child.pid)
        assert child.wait(1) == -9
        assert kill_and_wait(child.pid), "gone and reaped"


def test_what_is_no_child_is_let_be() -> None:
    assert kill_and_wait(os.getpid())
    assert kill_and_wait(os.getppid())
    assert kill_and_wait(None)


def test_child_that_cannot_be_killed_in_time_still_runs() -> None:
    with deaf_child() as child:
        assert not kill_and_wait(child.pid, within=-1.0)
        child.kill()


@pytest.mark.parametrize("requeue", [False, True])
def test_lock_and_message_are_given_back_when_the_process_is_gone(*, requeue: bool) -> None:
    seen: list[tuple[str, bool]] = []

    def gone(pid: int) -> bool:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    with deaf_child() as child:
        renewer = SimpleNamespace(release=lambda *_: seen.append(("release", gone(child.pid))))
        request: Any = PatternRequest.__new__(PatternRequest)
        request._task = SimpleNamespace(patterns=SimpleNamespace(renewer=renewer), requeue_on_time_limit=requeue)
        request._on_reject = lambda *_: seen.append(("reject", gone(child.pid)))
        request._connection_errors = ()
        request.send_event = lambda *_, **_more: None
        request.id = "1"
        request._token, request._child = "token", child.pid
        PatternRequest._end_by_force(request)
    assert seen == [("release", True), *([("reject", True)] if requeue else [])]
