"""Taking an attempt before it runs: one delivery of a message against every other of the same attempt."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from celery import states
from celery.exceptions import SoftTimeLimitExceeded

from celery_patterns import protocol
from celery_patterns.agent.carried import DuplicateDropped, StoreUnavailable
from celery_patterns.agent.redis_errors import RedisError
from celery_patterns.agent.store import ClaimStore, Verdict

logger = logging.getLogger(__name__)

STORE_ERRORS = (RedisError, OSError)

BACKOFF_SECONDS = (0.05, 2.0)
"""First and longest pause between two attempts to reach the store."""

HOLD_POLL_SECONDS = 0.5
"""How often a redelivered message looks whether the worker that had it is alive."""

FINAL_STATES = frozenset({states.SUCCESS, states.FAILURE, states.REVOKED})


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of a workflow's task, as it reaches the process that would run it."""

    task: Any
    id: str
    token: str
    request: dict[str, Any]
    """Celery's request dictionary."""

    @property
    def retries(self) -> int:
        """Celery's own retry count."""
        return self.request.get("retries") or 0

    @property
    def redelivered(self) -> bool:
        """Whether the broker took this message back from a worker: it may be the only copy."""
        return bool((self.request.get("delivery_info") or {}).get("redelivered"))

    def __str__(self) -> str:  # type: ignore[explicit-override]
        return f"{self.task.name}[{self.id}]"


class Patience:
    """Waits with a growing pause, and ends the wait where the message has somewhere to go back to.

    Args:
        seconds: How long an unreachable store is waited for.
        delivery: Whose message it is.
    """

    def __init__(self, seconds: float, delivery: Delivery) -> None:
        task = delivery.task
        limits = (*(delivery.request.get("timelimit") or ()), task.time_limit, task.soft_time_limit)
        # A time limit counts while we wait, and would make a failure of what is not one.
        longest = min((limit / 2 for limit in limits if limit), default=float("inf"))
        self._seconds = min(seconds, longest)
        self._hold_until = time.monotonic() + longest
        self._delivery = delivery
        self._can_go_back = bool(task.acks_late)
        self._pause = BACKOFF_SECONDS[0]
        self._deadline: float | None = None

    def wait_after(self, error: Exception) -> None:
        """Pause after an error of the store.

        Raises:
            StoreUnavailable: If this has lasted long enough and the message is not acknowledged yet. A message that
                is (early acknowledgement) has no other home: its task waits on.
        """
        now = time.monotonic()
        why = protocol.mask_url(str(error))
        if self._deadline is None:
            self._deadline = now + self._seconds
            logger.warning(
                "%s waits: the result backend does not answer, so it cannot be claimed: %s", self._delivery, why
            )
        elif now >= self._deadline:
            if self._can_go_back:
                logger.error("%s goes back to its queue: the result backend does not answer: %s", self._delivery, why)
                raise StoreUnavailable(f"the result backend did not answer: {why}", requeue=True)
            self._deadline = now + self._seconds
            logger.error("%s still waits, its message being acknowledged: no result backend: %s", self._delivery, why)
        self._sleep(self._pause)
        self._pause = min(self._pause * 2, BACKOFF_SECONDS[1])

    def hold(self, seconds: float) -> None:
        """Pause while another worker's lease runs.

        Raises:
            StoreUnavailable: If the task's time limit would run out first and the message is not acknowledged yet.
        """
        if self._can_go_back and time.monotonic() >= self._hold_until:
            raise StoreUnavailable("another worker's lease on it is not over yet", requeue=True)
        self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        try:
            time.sleep(seconds)
        except SoftTimeLimitExceeded as error:
            if not self._can_go_back:
                raise
            raise StoreUnavailable("its soft time limit ran out before it was claimed", requeue=True) from error


def claim(store: ClaimStore, delivery: Delivery, patience: Patience, worker: str) -> bool:
    """Take the attempt for this delivery; returns when it may run.

    Returns:
        True if this is its first start and nothing is stored under its id.

    Raises:
        DuplicateDropped: If the attempt has ended, or runs elsewhere.
        StoreUnavailable: If the message has to go back to its queue.
    """
    last_until: int | None = None
    result_seen = False
    while True:
        try:
            answer = store.claim(
                delivery.id,
                delivery.retries,
                token=delivery.token,
                worker=worker,
                name=delivery.task.name,
                result_seen=result_seen,
            )
            if answer.verdict is Verdict.RESULT_EXISTS:
                _look_at_result(store, delivery)
                result_seen = True
                continue
        except STORE_ERRORS as error:
            patience.wait_after(error)
            continue
        if answer.verdict is Verdict.CLAIMED:
            if answer.starts > 1:
                logger.warning("%s starts again (%d): the lease of its last worker is over", delivery, answer.starts)
            return answer.starts == 1 and not result_seen
        if answer.verdict is Verdict.ENDED:
            raise _duplicate(delivery, "this attempt has ended")
        if not delivery.redelivered:
            raise _duplicate(delivery, "another delivery of it is running")
        # Taken back from a worker: if its lease is renewed, that worker lives and this is a duplicate; if it runs out,
        # the attempt is ours.
        if last_until is not None and answer.until_ms > last_until:
            raise _duplicate(delivery, "the worker that has it is alive")
        last_until = answer.until_ms
        patience.hold(min(HOLD_POLL_SECONDS, answer.left_ms / 1000 + 0.01))


def _look_at_result(store: ClaimStore, delivery: Delivery) -> None:
    """Drop the delivery if a final result is stored though no claim says so."""
    record = store.results([delivery.id])[0]
    if record is not None and record.get("status") in FINAL_STATES:
        store.record_done(store.key(delivery.id, delivery.retries))
        raise _duplicate(delivery, "its result is stored")


def _duplicate(delivery: Delivery, why: str) -> DuplicateDropped:
    logger.info("%s is a duplicate and is dropped: %s", delivery, why)
    return DuplicateDropped(why)
