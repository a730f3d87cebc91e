"""What a worker's main process does with messages that will not run: keeper, hooks and poison guard together."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from kombu.utils.imports import symbol_by_name

from celery_patterns.resilience import consumer_hooks
from celery_patterns.resilience.buried_requests import watch
from celery_patterns.resilience.child_letters import ChildLetters
from celery_patterns.resilience.keeper import Keeper
from celery_patterns.resilience.letters import Letter
from celery_patterns.resilience.places import letters_of
from celery_patterns.resilience.poison import Deliveries, is_first_delivery
from celery_patterns.resilience.settings import ResilienceSettings
from celery_patterns.store import StoreNotConfigured
from celery_patterns.store.settings import store_url
from celery_patterns.tasks.dead_letter import keeps
from celery_patterns.tasks.patterns import patterns_of

logger = logging.getLogger(__name__)


class Counts(Protocol):
    """Counts letters, for metrics; called from any thread of the main process."""

    def letter_kept(self, queue: str, reason: str) -> None:
        """A letter was kept."""

    def letter_given_up(self, queue: str, reason: str) -> None:
        """A letter could not be kept; its content stands in the log alone."""


class Undertaker:
    """One for each worker's main process.

    Args:
        worker: Celery's WorkController.
        settings: What is kept, and where.
    """

    def __init__(self, worker: Any, settings: ResilienceSettings) -> None:
        app = worker.app
        self.app = app
        self.settings = settings
        self.hostname = str(worker.hostname)
        store = patterns_of(app).store
        try:
            store_url(store.settings, app.conf)
        except StoreNotConfigured:
            self.deliveries = Deliveries(None)
        else:
            self.deliveries = Deliveries(store)
        self.counts: Counts | None = None
        """Set by whoever shows metrics, before the worker consumes."""
        self.keeper = Keeper(letters_of(app, settings), self._kept, self._given_up)
        self.children = ChildLetters(self._count_kept)
        self._held: dict[int, Any] = {}
        """Requests whose messages are not settled, by the id of the object."""

    # ---- the worker's life

    def start(self) -> None:
        """Watch every task's requests; before the worker builds its strategies."""
        for task in self.app.tasks.values():
            task.Request = watch(symbol_by_name(task.Request), self)  # type: ignore[no-untyped-call]

    def consuming(self, consumer: Any) -> None:
        """The consumer is about to consume, first or after a reconnect."""
        if self.settings.failures != "none":
            consumer_hooks.install(consumer, self)
        # After the loss of a connection: what had not begun, and what Celery has cancelled, comes again.
        self._given_back([each for each in self._held.values() if each.was_cancelled or not each.was_dispatched])

    def stop(self) -> None:
        """Keep what waits; whatever is held still goes back in good order."""
        self.keeper.stop()
        self.children.close()
        self._given_back(list(self._held.values()))

    # ---- what requests ask

    def hold(self, request: Any) -> None:
        """A message came and became a request."""
        if self.settings.max_deliveries:
            self._held[id(request)] = request

    def settled(self, request: Any) -> None:
        """The broker is told, or about to be told, what becomes of the message."""
        self._held.pop(id(request), None)

    def count_delivery(self, request: Any) -> int | None:
        """Count a delivery that is about to run; its number if the message came too often, else None."""
        limit = self.settings.max_deliveries
        if not limit:
            return None
        count = self.deliveries.count(request.message, str(request.id), _retries(request))
        return count if count > limit else None

    def forget_delivery(self, request: Any) -> bool:
        """The message goes back in good order; False if that could not be noted."""
        self.settled(request)
        if not self.settings.max_deliveries or not (request.was_dispatched or is_first_delivery(request.message)):
            return True
        return self.deliveries.forget(request.message, str(request.id), _retries(request))

    def _given_back(self, requests: list[Any]) -> None:
        answers = True
        for request in requests:
            self.settled(request)
            # With a store that does not answer each would wait for seconds, and the worker is to end.
            answers = answers and self.forget_delivery(request)

    def keeps_failures_of(self, task: Any, reason: str) -> bool:
        """Whether a failure of this task is kept."""
        return keeps(task, reason, self.settings.failures)

    def queue_of(self, message: Any) -> str:
        """Return the queue a message came from: by its consumer, else by its routing key."""
        info = message.delivery_info or {}
        tag, channel = info.get("consumer_tag"), getattr(message, "channel", None)
        by_tag = getattr(channel, "_tag_to_queue", None)
        if isinstance(by_tag, dict) and tag in by_tag:
            return str(by_tag[tag])
        key, exchange = str(info.get("routing_key") or ""), info.get("exchange") or ""
        for name, queue in self.app.amqp.queues.consume_from.items():
            bound = getattr(queue.exchange, "name", "") or ""
            if exchange in ("", bound) and key in (queue.routing_key, name):
                return str(name)
        return key or str(self.app.conf.task_default_queue)

    def _kept(self, letter: Letter) -> None:
        self._count_kept(letter.queue, letter.reason)

    def _count_kept(self, queue: str, reason: str) -> None:
        if self.counts is not None:
            self.counts.letter_kept(queue, reason)

    def _given_up(self, letter: Letter) -> None:
        if self.counts is not None:
            self.counts.letter_given_up(letter.queue, letter.reason)


def _retries(request: Any) -> int:
    return int(request.request_dict.get("retries") or 0)
