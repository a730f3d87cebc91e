"""What a worker's main process does with messages that will not run: keeper, hooks and poison guard together."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from kombu.utils.imports import symbol_by_name

from celery_patterns.resilience import consumer_hooks
from celery_patterns.resilience.buried_requests import watch
from celery_patterns.resilience.keeper import Keeper
from celery_patterns.resilience.letters import Letter
from celery_patterns.resilience.places import letters_of
from celery_patterns.resilience.poison import Deliveries
from celery_patterns.resilience.policies import DeadLetters
from celery_patterns.resilience.settings import ResilienceSettings
from celery_patterns.store import StoreNotConfigured
from celery_patterns.store.settings import store_url
from celery_patterns.tasks.patterns import patterns_of

logger = logging.getLogger(__name__)


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
        self.kept: Counter[tuple[str, str]] = Counter()
        """(queue, reason) -> letters kept since the worker began."""
        self.keeper = Keeper(letters_of(app, settings), self._note)

    # ---- the worker's life

    def start(self) -> None:
        """Watch every task's requests; before the worker builds its strategies."""
        for task in self.app.tasks.values():
            task.Request = watch(symbol_by_name(task.Request), self)  # type: ignore[no-untyped-call]

    def consuming(self, consumer: Any) -> None:
        """The consumer is about to consume, first or after a reconnect."""
        if self.settings.failures != "none":
            consumer_hooks.install(consumer, self)

    def stop(self) -> None:
        """Keep what waits."""
        self.keeper.stop()

    # ---- what requests ask

    def count_delivery(self, request: Any) -> int | None:
        """Count a delivery; its number if the message came too often, else None."""
        limit = self.settings.max_deliveries
        if not limit:
            return None
        retries = int(request.request_dict.get("retries") or 0)
        count = self.deliveries.count(request.message, str(request.id), retries)
        return count if count > limit else None

    def forget_delivery(self, request: Any) -> None:
        """The message goes back in good order."""
        if self.settings.max_deliveries:
            retries = int(request.request_dict.get("retries") or 0)
            self.deliveries.forget(request.message, str(request.id), retries)

    def keeps_failures_of(self, task: Any, reason: str) -> bool:
        """Whether a failure of this task is kept."""
        if self.settings.failures == "all":
            return True
        if self.settings.failures == "none":
            return False
        plan = getattr(task, "plan", None)
        policies = getattr(plan, "policies", ())
        return any(isinstance(policy, DeadLetters) and reason in policy.reasons for policy in policies)

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

    def _note(self, letter: Letter) -> None:
        self.kept[letter.queue, letter.reason] += 1
