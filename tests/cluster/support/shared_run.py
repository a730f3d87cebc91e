"""Several processes test on one cluster: the first prepares it, the last tidies up, and one at a time installs."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SharedRun:
    """What the processes of one run of the tests know of each other, in a folder that lives as long as the cluster.

    Args:
        folder: Where it is kept.
        run: Which run this is; what an interrupted run of another name has left counts as nothing.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._lock = folder / "tests.lock"
        self._record = folder / "tests.json"
        self._run = run

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the others out for the time of the block; also out of ``enter`` and ``leave``, which belong into it."""
        with self._lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def enter(self) -> bool:
        """Say whether nobody of this run was in when this process came."""
        before = self._inside()
        self._note(before + 1)
        return before == 0

    def leave(self) -> bool:
        """Say whether nobody of this run is in any more."""
        left = max(self._inside() - 1, 0)
        self._note(left)
        return left == 0

    def _inside(self) -> int:
        if not self._record.exists():
            return 0
        record = json.loads(self._record.read_text())
        return int(record["inside"]) if record["run"] == self._run else 0

    def _note(self, inside: int) -> None:
        self._record.write_text(json.dumps({"run": self._run, "inside": inside}))
