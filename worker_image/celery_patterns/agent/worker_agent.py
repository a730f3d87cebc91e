"""The agent of one worker's main process: it ties the parts together and answers for them."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import celery
from kombu.utils.imports import symbol_by_name

from celery_patterns import protocol
from celery_patterns.agent import counts, native
from celery_patterns.agent.announcer import Announcer, Conclusion, announced
from celery_patterns.agent.drain import Drain
from celery_patterns.agent.guard import Guard
from celery_patterns.agent.lease import Lease
from celery_patterns.agent.liveness import Liveness
from celery_patterns.agent.metrics import Metrics
from celery_patterns.agent.requests import DROPPED, follow
from celery_patterns.agent.server import AgentServer, Token
from celery_patterns.agent.settings import AgentSettings
from celery_patterns.agent.store import ClaimStore, is_redis_backend

logger = logging.getLogger(__name__)

IN_PROCESS_POOL = "celery.concurrency.solo"
"""The pool whose tasks run inside the main loop."""


DELAYS_KEPT, DELAY_SECONDS = 32, 60.0
"""The delay seen is the longest among this many last starts, of this many last seconds."""


class WorkerAgent:
    """Everything the agent does in the main process.

    Args:
        worker: Celery's WorkController.
        settings: From the environment.
    """

    def __init__(self, worker: Any, settings: AgentSettings) -> None:
        self.worker = worker
        self.settings = settings
        self.pid = os.getpid()
        self.hostname = str(worker.hostname)
        self.guard = Guard(worker.app, self.hostname, settings)
        self.liveness = Liveness()
        self.drain = Drain(self._holds_something)
        self.metrics = Metrics(self.state, settings.pool, self.hostname, self._waiting_letters)
        self.lease = Lease(worker.app, settings.message_lease_seconds)
        self._redis = is_redis_backend(worker.app.backend)
        self.announcer = Announcer(
            self._make_store if self._redis else None,
            worker=self.hostname,
            lease_seconds=settings.lease_seconds,
            more_at_hand=counts.holds_any,
            on_tick=self._observe,
        )
        self.key_prefix = self.announcer.key_prefix
        self.server: AgentServer | None = None
        self._consumer: Any = None
        self._ready = False
        self._stopping = False
        self._lock = native.new_lock()
        self._finished: Counter[str] = Counter()
        self._delays: deque[tuple[float, float]] = deque(maxlen=DELAYS_KEPT)
        self._held_at = time.monotonic()

    # ---- the worker's life

    def start(self) -> None:
        """Listen and follow every task; before the worker connects.

        Raises:
            OSError: If the agent's address cannot be listened on.
        """
        for task in self.worker.app.tasks.values():
            task.Request = follow(symbol_by_name(task.Request), self)  # type: ignore[no-untyped-call]
        undertaker = self._undertaker
        if undertaker is not None:
            undertaker.counts = self.metrics
        settings = self.settings
        self.server = AgentServer(settings.host, settings.port, self, Token(settings.token_file))
        self.server.start()
        native.Logger.start_writer()
        self.announcer.start()
        self.lease.start()
        if settings.address_file:
            Path(settings.address_file).write_text(self.server.address)
        if not self._redis:
            logger.warning(
                "the result backend %s keeps no claims: workflow tasks run without the guard against running twice, "
                "and their ends are not announced. Use a Redis result backend for both",
                protocol.mask_url(str(self.worker.app.backend.as_uri())),
            )
        logger.info("the agent listens on %s", self.server.address)

    def consuming(self, consumer: Any) -> None:
        """The consumer is about to consume, first or after a reconnect; in its thread."""
        self._consumer = consumer
        self.guard.wrap_all()
        self.drain.connected(consumer)
        self.lease.connected(consumer)
        self.liveness.watch(consumer, busy_loop=self.worker.pool_cls.__module__ == IN_PROCESS_POOL)

    def disconnected(self) -> None:
        """The consumer stopped: it reconnects, or the worker ends."""
        self.liveness.rest()

    def ready(self) -> None:
        """The worker consumes for the first time."""
        self._ready = True

    def stopping(self) -> None:
        """The worker was told to end."""
        self._stopping = True

    def stop(self) -> None:
        """Send the last announcements."""
        self.lease.stop()
        self.announcer.stop()

    # ---- what tasks report

    def task_received(self, task: str, queue: str) -> None:
        """Count a message that became a task."""
        self.metrics.received(task, queue)

    def task_started(self, task: str, queue: str, delay: float | None) -> None:
        """Count the start of a task, ``delay`` seconds after its message was published (None: unknown)."""
        if delay is not None:
            with self._lock:
                self._delays.append((time.monotonic(), delay))
        self.metrics.started(task, queue, delay)

    def task_ended(self, task: str, state: str, runtime: float | None, *, queue: str = "", exception: str = "") -> None:
        """Count the end of a task."""
        with self._lock:
            self._finished[state] += 1
            self._held_at = time.monotonic()
        if state == DROPPED:
            self.metrics.dropped()
        else:
            self.metrics.ended(task, queue, state, runtime, exception)

    def refused(self, headers: dict[str, Any], exception: str, message: str, state: str) -> None:
        """Announce a workflow's message that never became a task: unknown name, or not a task message."""
        header = headers.get(protocol.TASK_HEADER)
        if header is None or protocol.TaskIdentity.from_header(header) is None:
            return
        task_id, retries = str(headers.get("id")), headers.get("retries")
        retries = retries if isinstance(retries, int) else 0
        self.announcer.concluded(
            Conclusion(
                header=header,
                task_id=task_id,
                key=protocol.claim_key(task_id, retries, self.key_prefix),
                token="",
                state=state,
                exception=exception,
                message=announced(message),
            )
        )

    # ---- what the server asks

    def state(self) -> protocol.WorkerState:
        """Return what the worker holds and runs."""
        held = counts.count(self._consumer)
        with self._lock:
            finished = dict(self._finished)
            held_at = self._held_at
            since = time.monotonic() - DELAY_SECONDS
            delays = [delay for at, delay in self._delays if at >= since]
        return protocol.WorkerState(
            hostname=self.hostname,
            slots=self._slots(),
            active=held.active,
            reserved=held.reserved,
            scheduled=held.scheduled,
            scheduled_due=held.scheduled_due,
            ready=self._ready and not self.drain.draining and not self._stopping,
            draining=self.drain.draining,
            drained=self.drain.drained and held.total == 0,
            oldest_active_seconds=round(held.oldest_active_seconds, 3),
            idle_seconds=0.0 if held.total else round(time.monotonic() - held_at, 3),
            queues=self.drain.queues,
            celery_version=celery.__version__,
            finished=finished,
            oldest_seconds=None if held.oldest_seconds is None else round(held.oldest_seconds, 3),
            delay_seconds=round(max(delays), 3) if delays else None,
            lease_seconds=self.lease.seconds,
            lease_refusal=self.lease.refusal,
        )

    def has_started(self) -> bool:
        """Whether the worker has consumed, or was told not to."""
        return self._ready or self.drain.draining

    def stalled_seconds(self) -> float | None:
        """Return how long the main loop has stood still if that is too long."""
        return None if self._stopping else self.liveness.stalled_seconds()

    def ask(self, *, draining: bool) -> None:
        """Begin or end draining."""
        self.drain.ask(draining=draining)

    def _slots(self) -> int:
        pool = getattr(self.worker, "pool", None)
        try:
            return int(pool.num_processes) if pool is not None else int(self.worker.concurrency)
        except (AttributeError, TypeError):
            return int(self.worker.concurrency)

    def _observe(self) -> None:
        self.drain.observe()
        if self._holds_something():
            with self._lock:
                self._held_at = time.monotonic()

    def _holds_something(self) -> bool:
        """Whether any task is held; what cannot be counted just then is taken for something."""
        try:
            return counts.held_total(self._consumer) > 0
        except counts.StillChanging:
            return True

    @property
    def _undertaker(self) -> Any:
        """Who keeps dead letters in this worker; None if nobody does."""
        return getattr(self.worker, "celery_patterns_undertaker", None)

    def _waiting_letters(self) -> int | None:
        undertaker = self._undertaker
        return None if undertaker is None else int(undertaker.keeper.waiting)

    def _make_store(self) -> ClaimStore:
        return ClaimStore(self.worker.app.backend, lease_seconds=self.settings.lease_seconds)
