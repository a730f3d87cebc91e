"""Batches: calls that are cheap together and dear alone, collected in the store and worked off as one.

    @batch_task(app, name="insert_rows", max_items=500, max_wait="2s")
    def insert_rows(items: Batch): ...

    insert_rows.delay("orders", row)         # an ordinary task, with a result of its own

Each call's message is acknowledged once its item is in the store. A second task, ``insert_rows.flush``, takes the
oldest items when there are enough of them or the first has waited long enough, and each item succeeds, fails or comes
again by itself. Items taken by a worker that dies are taken again by the next.

Whenever items wait, somebody is to ask for them: a flush whose message is in the broker, one that runs (and comes again
if it is killed), or the call that put them there (which comes again if it could not ask).
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Any, Final, Literal

from celery.app.task import Context
from celery.canvas import maybe_signature
from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError

from celery_patterns import protocol
from celery_patterns.resilience.classification import Permanent, Rules, Throttled, Transient, classify
from celery_patterns.store import StoreError, StoreUnavailable
from celery_patterns.tasks import batch_scripts as scripts
from celery_patterns.tasks import keys, options
from celery_patterns.tasks.batch import Batch, BatchSettings, Item, ItemVerdict
from celery_patterns.tasks.context import TaskContext, current_context
from celery_patterns.tasks.policy import PolicyError
from celery_patterns.tasks.progress import Progress
from celery_patterns.tasks.retry import Retry
from celery_patterns.tasks.task import PatternTask

logger = logging.getLogger(__name__)

KEEP_MS: Final = 7 * 86_400_000
"""How long items are kept that nobody works off."""

LONGEST_PAUSE: Final = 30
"""Seconds between two attempts while the store or the broker is away."""

RETRIES: Final = 100_000
"""Longer than items are kept: with pauses of half of the longest on average, 17 days."""

FLUSH_OPTIONS: Final = ("queue", "time_limit", "soft_time_limit")
"""Options that are the function's, which runs in the flush. Only the queue is of both."""

LASTING: Final = {"acks_late": True, "retry_on_worker_lost": True, "default_retry_delay": 1}
"""Killed between the store and the flush's message, a call must come again to ask for the flush."""

RULES: Final = Rules(unknown=Permanent)
"""What stores a result fails for good unless it is known to pass."""


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
    for option in ("acks_late", "retry_on_worker_lost"):
        if not task_options.get(option, True):
            raise PolicyError(f"batch_task.{option}: a batch's calls come again when their worker dies; leave it out")

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
            # Nobody else works these items off: it comes again whatever goes wrong with the store or the broker, and
            # when its process is killed. An item that kills it is given up after its own max_tries.
            policies=[Progress(), Retry(on=Exception, max=RETRIES, base="1s", cap=f"{LONGEST_PAUSE}s")],
            requeue_on_time_limit=True,
            ignore_result=True,
            **LASTING,
            **{option: task_options[option] for option in FLUSH_OPTIONS if option in task_options},
        )(flush)
        own = {option: value for option, value in task_options.items() if option not in FLUSH_OPTIONS[1:]}
        return app.task(base=PatternTask, bind=True, name=name, typing=False, **{**LASTING, **own})(add)

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
        try:
            verdict = task.patterns.store.run(scripts.ADD, self._keys(key), arguments)
        except StoreUnavailable as error:
            # It may be in the store all the same: to fail here would be to fail a call that is then worked off.
            pause = random.uniform(0.5, min(LONGEST_PAUSE, 2 ** min(request.retries or 0, 10)))
            raise task.retry(exc=error, countdown=pause, max_retries=RETRIES) from error
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
            # Whoever is free goes on with the rest while this batch runs; if the broker is away, its end asks again.
            with suppress(OperationalError):
                self._ask_for_flush(key, self.flush_task.request, None)
        batch = self._work(items, context)
        self._end(key, holder, batch)
        return len(items)

    def _work(self, items: list[Item], context: TaskContext) -> Batch:
        batch = Batch([item for item in items if item.tries <= self._settings.max_tries], context)
        dead = [item for item in items if item.tries > self._settings.max_tries]
        raised: Exception | None = None
        try:
            if batch.items:
                self._function(batch)
            rest = ItemVerdict("ok")
        except Exception as error:  # noqa: BLE001 - whatever it is, the items it leaves unmarked bear it
            logger.warning("a batch of %d items of %s raised %r", len(batch), self._name, error)
            raised = error
            alone = self._settings.on_item_error == "isolate" and len(batch) > 1
            rest = ItemVerdict("again", "alone") if alone else ItemVerdict("failed", error)
        for item in batch.items:
            batch.verdicts.setdefault(item.id, rest)
            if item.tries == self._settings.max_tries and batch.verdicts[item.id].state == "again":
                asked = f"it asked to come again, after {item.tries} batches, which is all that max_tries allows"
                batch.verdicts[item.id] = ItemVerdict("failed", raised or RuntimeError(asked))
        for item in dead:
            message = f"its batch was begun {item.tries - 1} times and never ended, which is all that is allowed"
            batch.verdicts[item.id] = ItemVerdict("failed", RuntimeError(message))
        batch.items = tuple(items)
        return batch

    def _end(self, key: str, holder: str, batch: Batch) -> None:
        """Store the results, then forget the items: a worker that dies in between leaves them to be done again."""
        store = self.flush_task.patterns.store
        held = store.run(scripts.HOLD, self._keys(key), [holder, *(item.id for item in batch.items)])
        ours = {task_id.decode() for task_id in held}
        if len(ours) < len(batch.items):
            logger.warning("%s: %d items were taken over by another worker", self._name, len(batch) - len(ours))
        # Where something is away, what is told is told, and the rest is done again.
        told = dict.fromkeys((item.id for item in batch.items if item.id in ours), "back")
        try:
            for item in (item for item in batch.items if item.id in ours):
                told[item.id] = self._tell(item, batch.verdicts[item.id])
        finally:
            arguments = [holder, KEEP_MS, *chain.from_iterable(told.items())]
            _, waiting = store.run(scripts.SETTLE, self._keys(key), arguments)
        if waiting:
            self._ask_for_flush(key, self.flush_task.request, self._settings.wait_seconds)

    def _tell(self, item: Item, verdict: ItemVerdict) -> str:
        """Store an item's result, let follow what follows, and return what the store is to make of the item."""
        if verdict.state == "again":
            return str(verdict.value or "again")
        if verdict.state == "ok":
            try:
                value = self._app.tasks[self._name].returned(Context(item.request), verdict.value)
                self._succeed(item, value)
            except Exception as error:
                if isinstance(classify(error, RULES), Transient | Throttled):
                    raise
                # A result that is too large, or that cannot be written: the item's failure, and nobody else's.
                verdict = ItemVerdict("failed", error)
        if verdict.state == "failed":
            self._keep(item, verdict.value)
            wanted = not item.request.get("ignore_result")
            self._app.backend.mark_as_failure(
                item.id, verdict.value, request=Context(item.request), store_result=wanted
            )
        return "done"

    def _keep(self, item: Item, error: Exception) -> None:
        from celery_patterns.resilience import item_letters, letters  # noqa: PLC0415 - publishers need none of it

        lost = item.tries > self._settings.max_tries
        reason = letters.WORKER_LOST if lost else letters.FAILED
        item_letters.keep_item(self._app.tasks[self._name], item, error, reason, self.flush_task.request)

    def _succeed(self, item: Item, value: Any) -> None:
        for callback in item.request.get("callbacks") or ():
            maybe_signature(callback, app=self._app).apply_async((value,), parent_id=item.id)
        following = item.request.get("chain")
        if following:
            maybe_signature(following[-1], app=self._app).apply_async(
                (value,), chain=following[:-1], parent_id=item.id, root_id=item.request.get("root_id")
            )
        wanted = not item.request.get("ignore_result")
        self._app.backend.mark_as_done(item.id, value, Context(item.request), wanted)

    def _at_once(self, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Without a worker: a batch of one."""
        item = Item(task_id, args, kwargs, 1, {})
        batch = Batch([item], None)  # type: ignore[arg-type] # there is no task that has a context
        self._function(batch)
        verdict = batch.verdicts.get(task_id, ItemVerdict("ok"))
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
