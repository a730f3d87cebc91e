"""Brokers and result backends by URL; the same URL gives the same object, so that a thousand workflows share one."""

from __future__ import annotations

import asyncio
from functools import partial
from weakref import WeakValueDictionary

from celery_operator.adapters.rabbitmq_broker import RabbitmqBroker
from celery_operator.adapters.redis_broker import RedisBroker
from celery_operator.adapters.redis_client import REDIS_SCHEMES, UNREADABLE, RedisAddressError
from celery_operator.adapters.result_backend import RedisResultBackend
from celery_operator.adapters.shared import SharedBackend, SharedBroker
from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import SpecError
from celery_operator.services.ports import Broker, Clock, ResultBackend

AMQP_SCHEMES = ("amqp", "amqps", "pyamqp")


IDLE_SECONDS = 600.0
"""Longer than any pool waits between two looks. Then nobody needs the server any more: its application is gone, or its
URL has changed."""
LOOK_SECONDS = 60.0
"""How often it is looked for connections that nobody uses."""


class CeleryConnections:
    """The port ``Connections``.

    Args:
        clock: For the header that tells when a message was published.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._brokers: WeakValueDictionary[str, SharedBroker] = WeakValueDictionary()
        self._backends: WeakValueDictionary[str, SharedBackend] = WeakValueDictionary()
        self._open: set[SharedBroker | SharedBackend] = set()
        """What may hold connections. The rest is forgotten with its last user."""
        self._next_look: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def broker(self, url: str) -> Broker:
        """See the port."""
        known = self._brokers.get(url)
        if known is None:
            known = SharedBroker(partial(self._open_broker, url), self._clock, self._used)
            self._brokers[url] = known
            self._open.add(known)
        return known

    def _open_broker(self, url: str) -> Broker:
        scheme = _scheme(url, Reason.UNSUPPORTED_BROKER, "broker")
        try:
            if scheme in REDIS_SCHEMES:
                return RedisBroker(url, clock=self._clock)
            if scheme in AMQP_SCHEMES:
                return RabbitmqBroker(url, clock=self._clock)
        except RedisAddressError as error:
            raise SpecError(Reason.UNSUPPORTED_BROKER, f"the broker URL cannot be read: {error}") from None
        except ValueError:
            raise SpecError(Reason.UNSUPPORTED_BROKER, f"the broker URL cannot be read: {UNREADABLE}") from None
        served = "redis://, rediss://, amqp:// and amqps://"
        raise SpecError(Reason.UNSUPPORTED_BROKER, f"no broker of kind {scheme}:// is served; use {served}")

    def result_backend(self, url: str) -> ResultBackend:
        """See the port."""
        known = self._backends.get(url)
        if known is None:
            known = SharedBackend(partial(self._open_backend, url), self._clock, self._used)
            self._backends[url] = known
            self._open.add(known)
        return known

    @staticmethod
    def _open_backend(url: str) -> ResultBackend:
        scheme = _scheme(url, Reason.UNSUPPORTED_BACKEND, "result backend")
        if scheme not in REDIS_SCHEMES:
            message = f"no result backend of kind {scheme}:// is served; use redis:// or rediss://"
            raise SpecError(Reason.UNSUPPORTED_BACKEND, message)
        try:
            return RedisResultBackend(url)
        except RedisAddressError as error:
            message = f"the result backend's URL cannot be read: {error}; expected redis://HOST:PORT/DATABASE"
            raise SpecError(Reason.UNSUPPORTED_BACKEND, message) from None

    async def close_idle(self) -> None:
        """Close what nobody has used for IDLE_SECONDS."""
        idle = [each for each in self._open if each.idle_for(IDLE_SECONDS)]
        self._open.difference_update(idle)
        # Taken away before anything is awaited: who begins to use one meanwhile opens anew, not what is closed here.
        unused = [each.give_up() for each in idle]
        await asyncio.gather(*(each.close() for each in unused if each is not None))

    async def close_all(self) -> None:
        """Close everything that was given out."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if self._looking is not None:
            await self._looking
        was_open, self._open = self._open, set()
        await asyncio.gather(*(each.close() for each in was_open))

    def _used(self, one: SharedBroker | SharedBackend) -> None:
        self._open.add(one)
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._next_look = None
        self._looking = asyncio.create_task(self.close_idle(), name="close idle connections")
        if self._open:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)


def _scheme(url: str, reason: Reason, what: str) -> str:
    """Return the lower-case scheme. Raises SpecError for what is no single URL."""
    scheme, separator, _ = url.strip().partition("://")
    if not separator or not scheme.replace("+", "").isalnum():
        raise SpecError(
            reason, f"the {what} URL cannot be read: expected SCHEME://HOST:PORT/… such as redis://redis:6379/0"
        )
    if ";" in url:
        raise SpecError(reason, f"the {what} URL names several servers (;): give one, such as redis://SERVICE:6379/0")
    return scheme.lower()
