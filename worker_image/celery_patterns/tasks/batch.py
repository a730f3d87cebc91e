"""A batch and its items, as the function sees them, and when a batch is worked off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import override

from celery_patterns.tasks import options
from celery_patterns.tasks.context import TaskContext


@dataclass(slots=True)
class Item:
    """One call."""

    id: str
    """The call's task id."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tries: int
    request: dict[str, Any] = field(repr=False)


@dataclass(slots=True)
class ItemVerdict:
    """What becomes of an item."""

    state: Literal["ok", "failed", "again"]
    value: Any = None


class Batch(Sequence[Item]):
    """The items that one flush works off; what is left unmarked when the function returns has succeeded with None."""

    def __init__(self, items: Sequence[Item], context: TaskContext) -> None:
        self.items = tuple(items)
        self.context = context
        self.verdicts: dict[str, ItemVerdict] = {}

    def ok(self, index: int, value: Any = None) -> None:
        """This item has succeeded with this result."""
        self.verdicts[self.items[index].id] = ItemVerdict("ok", value)

    def fail(self, index: int, error: Exception) -> None:
        """This item has failed, for good."""
        if not isinstance(error, Exception):
            raise TypeError(f"fail(index, error): expected an exception, got {error!r}")
        self.verdicts[self.items[index].id] = ItemVerdict("failed", error)

    def retry(self, index: int) -> None:
        """This item comes again in a later batch."""
        self.verdicts[self.items[index].id] = ItemVerdict("again")

    @override
    def __len__(self) -> int:
        return len(self.items)

    @override
    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    @override
    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """When a batch is worked off.

    Raises:
        PolicyError: If an option is wrong.
    """

    max_items: int = 100
    max_wait: options.Duration = "1s"
    max_bytes: options.Size = "1MB"
    key: str | None = None
    """Template over the arguments: calls with different keys are never in one batch."""
    on_item_error: Literal["isolate", "fail"] = "isolate"
    """When the function raises: each unmarked item runs again in a batch of its own, or they all fail."""
    max_tries: int = 5
    """How often an item is taken before it fails: one that kills its worker must not do so for ever."""

    def __post_init__(self) -> None:
        options.whole("batch_task.max_items", self.max_items, low=1, high=100_000)
        options.duration("batch_task.max_wait", self.max_wait, low=0.01, high=3600)
        options.size("batch_task.max_bytes", self.max_bytes)
        options.whole("batch_task.max_tries", self.max_tries, low=1, high=1000)
        options.choice("batch_task.on_item_error", self.on_item_error, ("isolate", "fail"))

    @property
    def wait_seconds(self) -> float:
        """Return max_wait in seconds."""
        return options.duration("batch_task.max_wait", self.max_wait)

    @property
    def most_bytes(self) -> int:
        """Return max_bytes in bytes."""
        return options.size("batch_task.max_bytes", self.max_bytes)
