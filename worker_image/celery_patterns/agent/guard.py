"""The guard around a workflow's task, in the process that executes it: claim, resolve, run, carry the result.

It wraps the tracer that Celery builds for every task. A message without the workflow header passes through untouched.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import signals, states
from celery.app.task import Context
from celery.app.trace import TraceInfo, trace_ok_t

from celery_patterns import protocol
from celery_patterns.agent import references
from celery_patterns.agent.carried import TOKEN_KEY, CarriedResult, DuplicateDropped, StoreUnavailable, encode_small
from celery_patterns.agent.claiming import STORE_ERRORS, Delivery, Patience, claim
from celery_patterns.agent.first_result import expect_anything, expect_none, spare_first_look
from celery_patterns.agent.next_retry import next_retry
from celery_patterns.agent.settings import AgentSettings
from celery_patterns.agent.store import ClaimStore, is_redis_backend

logger = logging.getLogger(__name__)

Tracer = Callable[..., Any]

SURE_SHARE = 0.5
"""Of the lease: so long after its claim a first start can rely on nobody else storing a result for it. The lease is
renewed by the main process, which a task's process cannot watch; half of it leaves time for the write itself."""

_current = threading.local()
"""Of the task that this thread runs: ``returned``, its value in a tuple, and ``original``, its message's arguments."""


class Guard:
    """Wraps tracers; one for each process that executes tasks.

    Args:
        app: The Celery application.
        hostname: The worker's node name, written into claims.
        settings: The agent's settings.
    """

    def __init__(self, app: Any, hostname: str, settings: AgentSettings) -> None:
        self._app = app
        self._hostname = hostname
        self._settings = settings
        self._redis = is_redis_backend(app.backend)
        if self._redis:
            spare_first_look(type(app.backend))
        self._inline = app.backend.serializer == "json"
        self._store: ClaimStore | None = None
        self._store_pid = 0
        self._lock = threading.Lock()
        signals.task_success.connect(_remember, weak=False)

    def wrap_all(self) -> None:
        """Wrap the tracer of every task that has one and is not wrapped yet."""
        for task in self._app.tasks.values():
            tracer = task.__trace__
            if tracer is not None and not hasattr(tracer, "guarded_tracer"):
                task.__trace__ = self._wrap(task, tracer)

    def prepare(self) -> None:
        """Connect ahead of the first task; a store that does not answer is no error yet."""
        if not self._redis:
            return
        try:
            self._connected().prepare()
        except STORE_ERRORS as error:
            logger.warning("the result backend does not answer yet: %s", protocol.mask_url(str(error)))

    def _connected(self) -> ClaimStore:
        """Return this process's connection to the claims; a forked child makes its own."""
        if self._store is None or self._store_pid != os.getpid():
            with self._lock:
                if self._store is None or self._store_pid != os.getpid():
                    self._store = ClaimStore(self._app.backend, lease_seconds=self._settings.lease_seconds)
                    self._store_pid = os.getpid()
        return self._store

    def _wrap(self, task: Any, tracer: Tracer) -> Tracer:
        def guarded_trace(uuid: str, args: Any, kwargs: Any, request: dict[str, Any] | None = None) -> Any:
            token = request.pop(TOKEN_KEY, None) if request else None
            if token is None or request is None:
                return tracer(uuid, args, kwargs, request)
            return self._run(Delivery(task, uuid, token, request), tracer, args, kwargs)

        guarded_trace.guarded_tracer = tracer  # type: ignore[attr-defined]
        return guarded_trace

    def _run(self, delivery: Delivery, tracer: Tracer, args: Any, kwargs: Any) -> Any:
        try:
            patience = Patience(self._settings.store_patience_seconds, delivery)
            if self._redis:
                self._claim(delivery, patience)
            if not delivery.request[protocol.TASK_HEADER].get("values_inline"):
                args, kwargs = self._resolve(patience, args, kwargs)
        except (DuplicateDropped, StoreUnavailable) as refusal:
            return _without_running(refusal)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this attempt's failure, not the worker's
            return _fail(delivery, args, kwargs, error)
        _current.returned = None
        outcome = tracer(delivery.id, args, kwargs, delivery.request)
        if outcome.info is None:
            outcome = outcome._replace(retstr=CarriedResult(outcome.retstr, *self._encode()))
        elif outcome.info.state == states.RETRY and self._redis:
            self._note_retry(delivery, outcome.info.retval)
        return outcome

    def _note_retry(self, delivery: Delivery, reason: Any) -> None:
        """Note in the claim when the retry is due, before the main process learns of it and ends the claim."""
        retry = next_retry(reason, delivery.request, self._app.now(), self._app.timezone)
        if retry is None:
            return
        store = self._connected()
        try:
            store.note_retry(store.key(delivery.id, delivery.retries), delivery.token, retry)
        except STORE_ERRORS as error:
            why = protocol.mask_url(str(error))
            logger.warning("when the retry of %s is due could not be noted: %s", delivery, why)

    def _claim(self, delivery: Delivery, patience: Patience) -> None:
        asked_at = time.monotonic()
        first = claim(self._connected(), delivery, patience, self._hostname)
        if first:
            waited = time.monotonic() - asked_at
            expect_none(delivery.id, self._settings.lease_seconds * SURE_SHARE - waited)
        else:
            expect_anything()

    def _resolve(self, patience: Patience, args: Any, kwargs: Any) -> tuple[Any, Any]:
        while True:
            try:
                values, named, replaced = references.resolve(args, kwargs, self._read_results)
            except STORE_ERRORS as error:
                patience.wait_after(error)
                continue
            if replaced:
                # A retry must carry the references on, not the values: see _restore_references.
                _current.original = (args, kwargs)
                signals.task_prerun.connect(_restore_references, weak=False)
            return values, named

    def _read_results(self, task_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        if self._redis:
            return self._connected().results(task_ids)
        metas = [self._app.backend.get_task_meta(task_id, cache=False) for task_id in task_ids]
        return [None if meta.get("status") == states.PENDING else meta for meta in metas]

    def _encode(self) -> tuple[str | None, int]:
        returned, _current.returned = _current.returned, None
        return (None, -1) if returned is None or not self._inline else encode_small(returned[0])


def _remember(result: Any = None, **_: Any) -> None:
    """Keep what the task returned until its tracer is done: the tracer itself hands out only a text."""
    _current.returned = (result,)


def _restore_references(task: Any = None, **_: Any) -> None:
    """Show the task's request the message's own arguments; Celery has the values in hand by now."""
    original = getattr(_current, "original", None)
    if original is not None:
        _current.original = None
        task.request.args, task.request.kwargs = original


def _fail(delivery: Delivery, args: Any, kwargs: Any, error: Exception) -> Any:
    """Record the failure as Celery does for one inside the task, without having run it."""
    context = Context(delivery.request, args=args, called_directly=False, kwargs=kwargs)
    info = TraceInfo(states.FAILURE, error)
    delivery.task.request_stack.push(context)
    try:
        raise error
    except type(error):
        stored = info.handle_error_state(delivery.task, context)
    finally:
        delivery.task.request_stack.pop()
    return trace_ok_t(stored, info, 0.0, None)


def _without_running(refusal: DuplicateDropped | StoreUnavailable) -> Any:
    """Return what Celery's tracer returns for a task that raised Ignore or Reject."""
    state = states.REJECTED if isinstance(refusal, StoreUnavailable) else states.IGNORED
    try:
        raise refusal
    except type(refusal):
        einfo = ExceptionInfo(internal=True)
    return trace_ok_t(einfo, TraceInfo(state, refusal), 0.0, None)
