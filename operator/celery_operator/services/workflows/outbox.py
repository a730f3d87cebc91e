"""What is decided to be published, until the broker has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from celery_operator.domain.errors import BrokerError
from celery_operator.domain.messages import TaskMessage
from celery_operator.domain.workflows.report import Reachability
from celery_operator.services.failpoints import Failpoint, Reached
from celery_operator.services.ports import Broker, Clock, Metrics

FIRST_RETRY = timedelta(seconds=0.5)
LONGEST_RETRY = timedelta(seconds=30)
"""Between attempts to reach a broker that is down."""


class Outbox:
    """The messages of one run on their way to its broker. What cannot be sent stays, in order, and is sent later."""

    def __init__(
        self, broker: Broker, unsent: Sequence[TaskMessage] = (), *, clock: Clock, metrics: Metrics, reached: Reached
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._reached = reached
        self._unsent = list(unsent)
        self._retry = FIRST_RETRY
        self.due: datetime | None = None
        """When to try again; None: nothing stands against sending."""

    @property
    def unsent(self) -> tuple[TaskMessage, ...]:
        """What no broker has taken yet."""
        return tuple(self._unsent)

    def __bool__(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    def keep(self, wanted: Callable[[TaskMessage], bool]) -> None:
        """Forget those that are no longer wanted: what was decided may have been decided otherwise since."""
        self._unsent = [message for message in self._unsent if wanted(message)]
        if not self._unsent:
            self.due = None

    async def send(self, messages: Sequence[TaskMessage]) -> Reachability | None:
        """Send these after what waits, unless a retry is not due yet; return what that says of the broker, if tried."""
        self._unsent.extend(messages)
        now = self._clock.now()
        if not self._unsent or (self.due is not None and now < self.due):
            return None
        try:
            await self._broker.publish(tuple(self._unsent))
        except BrokerError as error:
            self.due = now + self._retry
            self._retry = min(self._retry * 2, LONGEST_RETRY)
            return Reachability.down(error)
        self._metrics.published(len(self._unsent))
        self._unsent.clear()
        self.due, self._retry = None, FIRST_RETRY
        self._reached(Failpoint.AFTER_PUBLISH)
        return Reachability.up()
