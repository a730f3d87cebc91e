"""Python's cyclic garbage collector, set for a process that keeps much and makes much."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

YOUNG_OBJECTS = 20_000
"""New objects between two looks at the young ones (Python's 700 is met several times in one event of kopf's). What
goes in cycles meanwhile is a few MiB."""

OLDER_EVERY = 20
"""Looks at the young ones between two at the older ones."""


def calm_garbage_collector() -> None:
    """Take what the imports made out of the collector's sight, and let it look less often; call it once, at the start.

    With the defaults a third of the operator's time under load goes into walking through modules and classes that
    stay for ever.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, OLDER_EVERY, OLDER_EVERY)


LOOK_SECONDS = 10.0
"""How often it is looked whether there is something to give back: memory that is kept so long disturbs nobody."""

WORTH_COLLECTIONS = 3
"""Looks at the young objects since the last time, as a sign of work: fewer, and there is nothing to give back."""


async def give_back_when_quiet(active: Callable[[], int], *, every: float = LOOK_SECONDS) -> None:
    """Return memory to the system after a burst, for as long as this task lives.

    A burst of workflows leaves cycles for which the calm collector would not come by for hours, and free pages that the
    C library keeps. Looking through everything holds the event loop for some 0.1 s, so it waits until nothing runs.

    Args:
        active: How many workflows run.
        every: Seconds between two looks.
    """
    done = -WORTH_COLLECTIONS
    while True:
        await asyncio.sleep(every)
        looked = gc.get_stats()[0]["collections"]
        if looked - done >= WORTH_COLLECTIONS and active() == 0:
            gc.collect()
            _trim()
            done = looked


def _trim() -> None:
    """Let the C library return its free pages, where it is one that can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
