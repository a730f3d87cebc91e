"""The process of the pool in which a task runs, as the worker's main process sees it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

LOOK_SECONDS = 0.002


def kill_and_wait(pid: int | None, within: float = 1.0) -> bool:
    """SIGKILL a child of this process and wait until it runs no more. The pool may still ask for its exit status.

    Args:
        pid: Its id; one that is no child of this process (threads and greenlets run in it) is let be.
        within: Seconds; one that waits for a dead disk cannot be killed for a while.

    Returns:
        False if it still runs.
    """
    if pid is None or pid == os.getpid():
        return True
    deadline = time.monotonic() + within
    with suppress(ChildProcessError, ProcessLookupError):
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)
    return True
