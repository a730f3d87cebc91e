"""Keeps the leases of the tasks that a worker runs, from its main process.

A thread of its own, because a child may be busy in C code for minutes, and because one renewal for all tasks costs
less than one for each. Celery calls back when a task begins; nothing else has to be set up.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from itertools import groupby
from operator import itemgetter

from celery_patterns.store import Store, StoreError
from celery_patterns.store.leases import KEEP_MS, RELEASE, RENEW

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
"""Two may fail before a lease runs out."""

AT_ONCE = 200
"""Leases renewed by one command: Redis does nothing else meanwhile."""


class Renewer:
    """Renews the leases of the tasks that were begun and have not ended.

    Args:
        store: Where the leases are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[tuple[str, str], float] = {}
        """(task hash, token) to the lease's seconds."""
        self._granted: set[tuple[str, str]] = set()
        """Those whose lease was renewed before: one that is not granted yet may still wait for the store."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._pid = 0

    def hold(self, task_id: str, token: str, lease_seconds: float) -> None:
        """Renew this execution's lease from now on; the admission's script grants it."""
        with self._lock:
            if self._pid != os.getpid():
                self._held.clear()
                self._granted.clear()
                self._wake = threading.Event()
                self._pid = os.getpid()
                threading.Thread(target=self._work, name="celery-patterns-leases", daemon=True).start()
            sooner = lease_seconds < min(self._held.values(), default=float("inf"))
            self._held[self._store.key("task", task_id), token] = lease_seconds
            if sooner:
                self._wake.set()

    def let_go(self, task_id: str, token: str) -> None:
        """Stop renewing: the execution has ended by itself."""
        name = (self._store.key("task", task_id), token)
        with self._lock:
            self._held.pop(name, None)
            self._granted.discard(name)

    def release(self, task_id: str, token: str) -> None:
        """Give back at once what an execution held that was lost; its lease runs out anyway if the store is away."""
        self.let_go(task_id, token)
        try:
            self._store.run(RELEASE, [self._store.key("task", task_id)], [KEEP_MS, token])
        except StoreError as error:
            logger.warning("what task %s held stays taken until its lease ends: %s", task_id, error)

    def renew(self) -> None:
        """Renew all leases once."""
        with self._lock:
            held = sorted(self._held.items(), key=itemgetter(1))
        # One lease at a time: a longer one would keep what another policy wants to be free soon after a loss.
        for lease_seconds, group in groupby(held, key=itemgetter(1)):
            self._renew([name for name, _ in group], lease_seconds)

    def _renew(self, names: list[tuple[str, str]], lease_seconds: float) -> None:
        for start in range(0, len(names), AT_ONCE):
            batch = names[start : start + AT_ONCE]
            tokens = [token for _, token in batch]
            answers = self._store.run(RENEW, [key for key, _ in batch], [int(lease_seconds * 1000), KEEP_MS, *tokens])
            with self._lock:
                for name, answer in zip(batch, answers, strict=True):
                    if answer:
                        self._granted.add(name)
                    elif name in self._granted:
                        self._held.pop(name, None)
                        self._granted.discard(name)

    def _work(self) -> None:
        pid, wake = self._pid, self._wake
        while pid == os.getpid():
            with self._lock:
                shortest = min(self._held.values(), default=60.0)
            wake.wait(shortest / RENEWALS_PER_LEASE)
            wake.clear()
            try:
                self.renew()
            except StoreError as error:
                logger.warning("leases were not renewed: %s", error)
                time.sleep(0.1)
