"""The garbage collector is calmed, and still collects."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, weakref
from celery_operator.adapters.garbage import OLDER_EVERY, YOUNG_OBJECTS, calm_garbage_collector

calm_garbage_collector()
assert gc.isenabled() and gc.get_freeze_count() > 1000, gc.get_freeze_count()
assert gc.get_threshold() == (YOUNG_OBJECTS, OLDER_EVERY, OLDER_EVERY), gc.get_threshold()

class Ring:
    pass

ring = Ring()
ring.itself = ring
gone = weakref.ref(ring)
del ring
kept = [[] for _ in range(2 * YOUNG_OBJECTS)]
assert gone() is None
"""


def test_what_the_imports_made_is_out_of_sight_and_rings_are_still_found() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
