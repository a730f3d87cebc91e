"""Python's cyclic garbage collector, set for a process that keeps much and makes much."""

from __future__ import annotations

import gc

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
