"""What can go wrong with the store, in words that say what to do."""

from __future__ import annotations


class StoreError(Exception):
    """The store cannot do what was asked."""


class StoreNotConfigured(StoreError):  # noqa: N818 - it names a state, like Celery's ImproperlyConfigured
    """No Redis is known in which patterns could keep their state."""


class StoreFault(StoreError):  # noqa: N818 - see above
    """A script failed on what it was given or found: nothing that waiting mends, nor a reason to run unprotected."""


class StoreUnavailable(StoreError):  # noqa: N818 - see above
    """Redis does not answer, or refuses (out of memory, no permission, read-only replica)."""
