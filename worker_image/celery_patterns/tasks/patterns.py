"""What the patterns of one application share: its store, its settings, the leases of its workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_patterns.store import Store, StoreSettings
from celery_patterns.tasks.renewer import Renewer

if TYPE_CHECKING:
    from celery_patterns.tasks.features import Features

ATTRIBUTE = "celery_patterns"
"""Of a Celery application: its Patterns."""

_lock = threading.RLock()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - one that another thread held at the fork would never be released here
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class Patterns:
    """The patterns of one application.

    Args:
        app: The Celery application.
        settings: Says where state lies, at first use: an application is configured until then. None: read from its
            configuration and the environment.
        features: What the application turns on, by argument; None: nothing was said.
    """

    def __init__(
        self, app: Any, settings: Callable[[], StoreSettings] | None = None, features: Features | None = None
    ) -> None:
        self.app = app
        self.features = features
        self._settings = settings
        self._store: Store | None = None
        self._renewer: Renewer | None = None

    @property
    def store(self) -> Store:
        """The store; it connects when it is first asked something."""
        if self._store is None:
            with _lock:
                if self._store is None:
                    self._store = Store(self.app, self._settings() if self._settings else None)
        return self._store

    @property
    def renewer(self) -> Renewer:
        """Renews leases in the worker's main process."""
        if self._renewer is None:
            store = self.store
            with _lock:
                if self._renewer is None:
                    self._renewer = Renewer(store)
        return self._renewer

    def key(self, kind: str, name: str) -> str:
        """Return the key of one thing."""
        return self.store.key(kind, name)


def patterns_of(app: Any) -> Patterns:
    """Return an application's Patterns, made at the first call."""
    found: Patterns | None = getattr(app, ATTRIBUTE, None)
    if found is None:
        with _lock:
            found = getattr(app, ATTRIBUTE, None)
            if found is None:
                found = Patterns(app)
                setattr(app, ATTRIBUTE, found)
    return found
