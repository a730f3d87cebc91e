"""What a task's process hands to the worker's main process beside the outcome, in the fields that Celery already has.

From main to task: the delivery's claim token, as one more entry of the request's dictionary. From task to main: the
encoded result, riding on the string that Celery sends for its logs and events.
"""

from __future__ import annotations

from typing import Any

from celery.exceptions import Ignore, Reject

from celery_patterns import protocol

TOKEN_KEY = "celery_operator_token"
"""Entry of the request's dictionary; taken out again before the task runs, so a retry never inherits it."""


class CarriedResult(str):
    """``repr`` of a result, as Celery sends it to the main process, with the result's JSON if that is small."""

    __slots__ = ("encoded", "size")

    encoded: str | None
    """JSON text of the result, or None if it is not small or not JSON."""
    size: int
    """Its bytes; -1 if only the backend knows."""

    def __new__(cls, text: str | None, encoded: str | None, size: int) -> CarriedResult:  # noqa: PYI034 - 3.10 has no Self
        """Make one from Celery's own string."""
        self = super().__new__(cls, text or "")
        self.encoded = encoded
        self.size = size
        return self

    def __reduce__(self) -> tuple[Any, ...]:  # type: ignore[explicit-override] # typing.override is not in 3.11
        """Pickle with the two fields, which ``str`` would drop."""
        return CarriedResult, (str(self), self.encoded, self.size)


class DuplicateDropped(Ignore):  # type: ignore[misc]
    """The message is a duplicate: acknowledge it, store nothing, announce nothing."""


class StoreUnavailable(Reject):  # type: ignore[misc]
    """The attempt could not be claimed: the message goes back to its queue."""


def encode_small(value: Any) -> tuple[str | None, int]:
    """Return (JSON text, bytes) of a result if it has at most INLINE_VALUE_BYTES, else (None, -1).

    A large result costs next to nothing: it is weighed before it is encoded.
    """
    if _least_bytes(value, protocol.INLINE_VALUE_BYTES) > protocol.INLINE_VALUE_BYTES:
        return None, -1
    from kombu.utils.json import dumps  # noqa: PLC0415 - Celery's own encoder, with its dates and UUIDs

    try:
        text: str = dumps(value, separators=(",", ":"))  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        return None, -1
    size = len(text.encode())
    return (text, size) if size <= protocol.INLINE_VALUE_BYTES else (None, -1)


def _least_bytes(value: Any, budget: int) -> int:
    """Return a lower bound of the JSON's bytes, looking no further once it is above the budget."""
    if isinstance(value, str):
        return len(value) + 2
    total = 1
    if isinstance(value, dict):
        for key, item in value.items():
            total += 4 + _least_bytes(key, budget) + _least_bytes(item, budget - total)
            if total > budget:
                break
    elif isinstance(value, (list, tuple)):
        for item in value:
            total += 1 + _least_bytes(item, budget - total)
            if total > budget:
                break
    return total
