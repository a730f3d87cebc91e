"""Batches: calls that are cheap together and dear alone, collected in the store and worked off as one.

    @batch_task(app, name="insert_rows", max_items=500, max_wait="2s")
    def insert_rows(items: Batch): ...

    insert_rows.delay("orders", row)         # an ordinary task, with a result of its own

Each call's message is acknowledged once its item is in the store. A second task, ``insert_rows.flush``, takes the
oldest items when there are enough of them or the first has waited long enough, and each item succeeds, fails or comes
again by itself. Items taken by a worker that dies are taken again by the next.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from celery.app.task import Context
from celery.canvas import maybe_signature
from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError
from typing_extensions import override

from celery_patterns import protocol
from celery_patterns.store import StoreError
from celery_patterns.tasks import batch_scripts as scripts
from celery_patterns.tasks import keys, options
from celery_patterns.tasks.context import TaskContext, current_context
from celery_patterns.tasks.errors import ResultTooLarge
from celery_patterns.tasks.policy import PolicyError
from celery_patterns.tasks.progress import Progress
from celery_patterns.tasks.retry import Retry
from celery_patterns.tasks.task import PatternTask

logger = logging.getLogger(__name__)

FLUSH_RETRIES = 1_000
"""Eight hours at the longest pause: longer than a store or broker is away that somebody looks after."""

KEEP_MS = 7 * 86_400_000
"""How long items are kept that nobody works off."""


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
class _Verdict:
    state: Literal["ok", "failed", "again"]
    value: Any = None


class Batch(Sequence[Item]):
    """The items that one flush works off; what is left unmarked when the function returns has succeeded with None."""

    def __init__(self, items: Sequence[Item], context: TaskContext) -> None:
        self.items = tuple(items)
        self.context = context
        self.verdicts: dict[str, _Verdict] = {}

    def ok(self, index: int, value: Any = None) -> None:
        """This item has succeeded with this result."""
        self.verdicts[self.items[index].id] = _Verdict("ok", value)

    def fail(self, index: int, error: Exception) -> None:
        """This item has failed, for good."""
        if not isinstance(error, Exception):
            raise TypeError(f"fail(index, error): expected an exception, got {error!r}")
        self.verdicts[self.items[index].id] = _Verdict("failed", error)

    def retry(self, index: int) -> None:
        """This item comes again in a later batch."""
        self.verdicts[self.items[index].id] = _Verdict("again")

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


def batch_task(
    app: Any,
    *,
    name: str,
    max_items: int = 100,
    max_wait: options.Duration = "1s",
    max_bytes: options.Size = "1MB",
    key: str | None = None,
    on_item_error: Literal["isolate", "fail"] = "isolate",
    max_tries: int = 5,
    **task_options: Any,
) -> Callable[[Callable[[Batch], Any]], Any]:
    """Declare a task whose calls are worked off in batches; see ``BatchSettings``. The function gets a ``Batch``.

    Raises:
        PolicyError: If an option is wrong.
    """
    settings = BatchSettings(max_items, max_wait, max_bytes, key, on_item_error, max_tries)

    def declare(function: Callable[[Batch], Any]) -> Any:
        worker = _Flusher(app, name, settings, function)

        def add(self: PatternTask, *args: Any, **kwargs: Any) -> Any:
            return worker.add(self, args, kwargs)

        def flush(batch_key: str) -> int:
            return worker.flush(batch_key)

        add.__doc__ = function.__doc__
        add.__module__ = flush.__module__ = function.__module__
        worker.flush_task = app.task(
            base=PatternTask,
            name=f"{name}.flush",
            # Nobody else works these items off: it comes again as long as the store or the broker is away, and when its
            # process is killed. An item that kills it is given up after its own max_tries.
            policies=[Progress(), Retry(max=FLUSH_RETRIES, base="1s", cap="30s")],
            acks_late=True,
            retry_on_worker_lost=True,
            default_retry_delay=1,
            ignore_result=True,
            **({"queue": task_options["queue"]} if "queue" in task_options else {}),
        )(flush)
        # Killed between the store and the flush's message it must come again, to ask for the flush.
        lasting = {"acks_late": True, "retry_on_worker_lost": True, "default_retry_delay": 1}
        return app.task(base=PatternTask, bind=True, name=name, typing=False, **{**lasting, **task_options})(add)

    return declare


class _Flusher:
    """What both tasks of one batch do."""

    def __init__(self, app: Any, name: str, settings: BatchSettings, function: Callable[[Batch], Any]) -> None:
        self._app = app
        self._name = name
        self._settings = settings
        self._function = function
        self.flush_task: Any = None

    def add(self, task: PatternTask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Put a call into the store, and end it without a result: that comes with the flush."""
        request = task.request
        if request.called_directly or request.is_eager:
            return self._at_once(request.id or "direct", args, kwargs)
        key = self._key(args, kwargs)
        item = json.dumps({"args": args, "kwargs": kwargs, "request": _kept(request)}, separators=(",", ":"))
        settings = self._settings
        patience = int((settings.wait_seconds + task.lease_seconds) * 1000)
        arguments = [request.id, item, settings.max_items, settings.most_bytes, KEEP_MS, patience]
        verdict = task.patterns.store.run(scripts.ADD, self._keys(key), arguments)
        if verdict:
            countdown = None if verdict == 2 else settings.wait_seconds
            try:
                self._ask_for_flush(key, request, countdown)
            except OperationalError as error:
                with suppress(StoreError):  # this call asks again in any case
                    task.patterns.store.run(scripts.FORGET_PROMISE, self._keys(key), [])
                # The call is in the store and will be worked off: it has not failed, and must not say so.
                raise Reject(f"the broker takes no message for the flush: {error}", requeue=True) from error
        raise Ignore

    def flush(self, key: str) -> int:
        """Work one batch off; returns how many items it had."""
        context = current_context()
        store, settings = self.flush_task.patterns.store, self._settings
        holder = context.call.holder
        arguments = [store.key("task", ""), holder, settings.max_items, settings.most_bytes, KEEP_MS]
        waiting, reclaimed, raw = store.run(scripts.TAKE, self._keys(key), arguments)
        if reclaimed:
            logger.warning("%s: %d items were taken back from a worker that died", self._name, reclaimed)
        items = [_item(*record) for record in raw]
        if not items:
            return 0
        if waiting:
            # Whoever is free goes on with the rest while this batch runs.
            self._ask_for_flush(key, self.flush_task.request, None)
        batch = self._work(items, context)
        self._end(key, holder, batch)
        return len(items)

    def _work(self, items: list[Item], context: TaskContext) -> Batch:
        batch = Batch([item for item in items if item.tries <= self._settings.max_tries], context)
        dead = [item for item in items if item.tries > self._settings.max_tries]
        try:
            if batch.items:
                self._function(batch)
            rest = _Verdict("ok")
        except Exception as error:  # noqa: BLE001 - whatever it is, the items it leaves unmarked bear it
            logger.warning("a batch of %d items of %s raised %r", len(batch), self._name, error)
            alone = self._settings.on_item_error == "isolate" and len(batch) > 1
            rest = _Verdict("again", "alone") if alone else _Verdict("failed", error)
        for item in batch.items:
            batch.verdicts.setdefault(item.id, rest)
        for item in dead:
            message = f"its batch was begun {item.tries - 1} times and never ended, which is all that is allowed"
            batch.verdicts[item.id] = _Verdict("failed", RuntimeError(message))
        batch.items = tuple(items)
        return batch

    def _end(self, key: str, holder: str, batch: Batch) -> None:
        """Store the results, then forget the items: a worker that dies in between leaves them to be done again."""
        store = self.flush_task.patterns.store
        arguments: list[Any] = [holder, KEEP_MS]
        held = store.run(scripts.HOLD, [self._keys(key)[2]], [holder, *(item.id for item in batch.items)])
        ours = {task_id.decode() for task_id in held}
        if len(ours) < len(batch.items):
            logger.warning("%s: %d items were taken over by another worker", self._name, len(batch) - len(ours))
        for item in (item for item in batch.items if item.id in ours):
            verdict = self._bounded(item, batch.verdicts[item.id])
            if verdict.state != "again":
                if verdict.state == "failed":
                    self._keep(item, verdict.value)
                self._store_result(item, verdict)
                arguments += (item.id, "done")
            else:
                arguments += (item.id, verdict.value or "again")
        _, waiting = store.run(scripts.SETTLE, self._keys(key), arguments)
        if waiting:
            self._ask_for_flush(key, self.flush_task.request, self._settings.wait_seconds)

    def _bounded(self, item: Item, verdict: _Verdict) -> _Verdict:
        """Let the task's policies look at a result; one that is too large is the item's failure."""
        if verdict.state != "ok":
            return verdict
        try:
            return _Verdict("ok", self._app.tasks[self._name].returned(Context(item.request), verdict.value))
        except ResultTooLarge as error:
            return _Verdict("failed", error)

    def _keep(self, item: Item, error: Exception) -> None:
        from celery_patterns.resilience import item_letters, letters  # noqa: PLC0415 - publishers need none of it

        lost = item.tries > self._settings.max_tries
        reason = letters.WORKER_LOST if lost else letters.FAILED
        item_letters.keep_item(self._app.tasks[self._name], item, error, reason, self.flush_task.request)

    def _store_result(self, item: Item, verdict: _Verdict) -> None:
        backend, request = self._app.backend, Context(item.request)
        wanted = not item.request.get("ignore_result")
        if verdict.state == "failed":
            backend.mark_as_failure(item.id, verdict.value, request=request, store_result=wanted)
            return
        for callback in item.request.get("callbacks") or ():
            maybe_signature(callback, app=self._app).apply_async((verdict.value,), parent_id=item.id)
        chain = item.request.get("chain")
        if chain:
            maybe_signature(chain[-1], app=self._app).apply_async(
                (verdict.value,), chain=chain[:-1], parent_id=item.id, root_id=item.request.get("root_id")
            )
        backend.mark_as_done(item.id, verdict.value, request, wanted)

    def _at_once(self, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Without a worker: a batch of one."""
        item = Item(task_id, args, kwargs, 1, {})
        batch = Batch([item], None)  # type: ignore[arg-type] # there is no task that has a context
        self._function(batch)
        verdict = batch.verdicts.get(task_id, _Verdict("ok"))
        if verdict.state == "ok":
            return verdict.value
        raise verdict.value or RuntimeError("the item asked to come again, and nothing brings it here")

    def _ask_for_flush(self, key: str, request: Any, countdown: float | None) -> None:
        queue = (request.delivery_info or {}).get("routing_key")
        self.flush_task.apply_async((key,), countdown=countdown, **({"queue": queue} if queue else {}))

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if self._settings.key is None:
            return ""
        arguments = {str(number): value for number, value in enumerate(args)} | kwargs
        try:
            return keys.render(self._settings.key, arguments)
        except keys.KeyUnreadable as error:
            raise PolicyError(f"batch_task.key: {error}; pass what it names as keyword arguments") from error

    def _keys(self, key: str) -> list[str]:
        name = f"{self._name}:{key}"
        made = self.flush_task.patterns.key
        return [made(kind, name) for kind in ("batch-items", "batch-waiting", "batch-taken", "batch-state")]


def _item(task_id: bytes, record: bytes, tries: int) -> Item:
    raw = json.loads(record)
    return Item(task_id.decode(), tuple(raw["args"]), raw["kwargs"], int(tries), raw["request"])


def _kept(request: Any) -> dict[str, Any]:
    """Return what the result and what follows it need of a request."""
    names = ("id", "root_id", "parent_id", "group", "group_index", "chord", "callbacks", "errbacks", "chain")
    kept = {name: getattr(request, name, None) for name in names}
    kept[protocol.TASK_HEADER] = request.get(protocol.TASK_HEADER)
    kept |= {"ignore_result": bool(request.get("ignore_result")), "task": request.get("task"), "retries": 0}
    return {name: value for name, value in kept.items() if value is not None}
