"""A thread that renews what this process holds, while it holds something."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from celery_patterns.store import StoreError

logger = logging.getLogger(__name__)

IDLE_SECONDS: Final = 5.0
"""A thread that renews nothing for so long ends; the next holder starts another."""


class Renewals:
    """Calls ``renew(holder)`` for each holder, again and again.

    Args:
        renew: Renews one; returns False if the holder has lost what it held. May raise StoreError: tried again.
        every_seconds: The pause; a third of the lease, so that two renewals may fail.
        name: Of the thread.
    """

    def __init__(self, renew: Callable[[str], bool], every_seconds: float, name: str) -> None:
        self._renew = renew
        self._every = every_seconds
        self._name = name
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def add(self, holder: str) -> None:
        """Begin to renew."""
        if self._pid != os.getpid():
            # A forked child has its parent's holders in memory, but neither its thread nor its places.
            self._lock, self._due, self._thread, self._pid = threading.Lock(), {}, None, os.getpid()
        with self._lock:
            self._due[holder] = time.monotonic() + self._every
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def drop(self, holder: str) -> None:
        """Renew it no more."""
        with self._lock:
            self._due.pop(holder, None)

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            with self._lock:
                now = time.monotonic()
                if self._due:
                    idle_since = now
                elif now - idle_since >= IDLE_SECONDS:
                    self._thread = None
                    return
                due = [holder for holder, at in self._due.items() if at <= now]
            for holder in due:
                self._renew_one(holder)
            time.sleep(min(self._every, 1.0) / 4)

    def _renew_one(self, holder: str) -> None:
        try:
            kept = self._renew(holder)
        except StoreError as error:
            logger.warning("%s: a lease is not renewed, tried again soon: %s", self._name, error)
            return
        with self._lock:
            if holder not in self._due:
                return
            if kept:
                self._due[holder] = time.monotonic() + self._every
            else:
                del self._due[holder]
        if not kept:
            logger.error("%s: a place was lost: this process was stopped for longer than its lease", self._name)
