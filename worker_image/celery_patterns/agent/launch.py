"""``celery`` as an injected agent starts it: the image's own, without options that its release does not know yet."""

from __future__ import annotations

import sys
from collections.abc import Sequence

NEWER_OPTIONS = {"--disable-prefetch": (5, 6)}
"""Flags that pools of the operator set, and the release that brought them. An older worker prefetches a message for
each slot, and does everything else alike."""


def main() -> int:
    """Run ``celery`` with this process's arguments."""
    from celery import VERSION  # noqa: PLC0415 - nothing of Celery's is loaded here, which patches itself for greenlets
    from celery.__main__ import main as celery  # noqa: PLC0415

    sys.argv[:] = ["celery", *known(sys.argv[1:], VERSION[:2])]
    return int(celery() or 0)


def known(arguments: Sequence[str], release: tuple[int, int]) -> list[str]:
    """Return the arguments that a release of Celery knows."""
    return [each for each in arguments if NEWER_OPTIONS.get(each, release) <= release]
