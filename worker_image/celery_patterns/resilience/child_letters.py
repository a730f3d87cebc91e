"""Letters that a pool's processes keep themselves (items of batches): told to the main process, which counts them.

They go through a pipe that the processes inherit, so that one which is recycled or killed right after has told its own.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 5.0
"""How long a process waits while the pipe is full: only while the main process stands still, or is gone."""
PAUSE_SECONDS: Final = 0.01

LONGEST_NAME: Final = 255
"""Characters of a queue's name: a line of fewer than 4096 bytes is written whole, and never mixed with another's."""

PIECE: Final = 65_536
END: Final = b"\n"

_here: list[ChildLetters] = []
"""Of this process's worker; a forked child finds its parent's."""


class ChildLetters:
    """One for each worker, made in its main process.

    Args:
        count: Called there with queue and reason of each letter: in the thread that listens, or in that which kept it.
    """

    def __init__(self, count: Callable[[str, str], Any]) -> None:
        self._count = count
        self._pid = os.getpid()
        self._writer: int | None = None
        _here[:] = [self]

    def listen(self) -> None:
        """Hear what processes tell that are forked from now on."""
        reader, self._writer = os.pipe()
        # While the main process stands still, the pipe fills: a task then waits for a while, never for ever.
        os.set_blocking(self._writer, False)
        threading.Thread(target=self._run, args=(reader,), name="letters-of-children", daemon=True).start()

    def close(self) -> None:
        """The pool has ended: count what it has told, and hear no more."""
        writer, self._writer = self._writer, None
        if writer is not None:
            _write(writer, END)
            os.close(writer)

    def tell(self, queue: str, reason: str) -> None:
        """A letter was kept, in this process. Never raises: it is kept, whoever knows."""
        if os.getpid() == self._pid:
            self._count(queue, reason)
        elif self._writer is not None:
            line = json.dumps([queue[:LONGEST_NAME], reason]).encode() + END
            if not _write(self._writer, line):
                logger.warning("a dead letter of %s is kept and not counted: the main process stands still", queue)

    def _run(self, reader: int) -> None:
        rest = b""
        while piece := os.read(reader, PIECE):
            *lines, rest = (rest + piece).split(END)
            for line in lines:
                if not line:
                    os.close(reader)
                    return
                queue, reason = json.loads(line)
                self._count(queue, reason)


def _write(writer: int, line: bytes) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            os.write(writer, line)
        except BlockingIOError:
            time.sleep(PAUSE_SECONDS)
        except OSError:
            return False
        else:
            return True
    return False


def tell(queue: str, reason: str) -> None:
    """Tell the worker of this process, if there is one, that a letter was kept here."""
    for worker in _here:
        worker.tell(queue, reason)
