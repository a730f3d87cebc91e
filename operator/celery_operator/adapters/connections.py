"""Brokers and result backends by URL; the same URL gives the same object, so that a thousand workflows share one."""

from __future__ import annotations

import asyncio

from celery_operator.adapters.rabbitmq_broker import RabbitmqBroker
from celery_operator.adapters.redis_broker import RedisBroker
from celery_operator.adapters.redis_client import REDIS_SCHEMES, UNREADABLE, RedisAddressError
from celery_operator.adapters.result_backend import RedisResultBackend
from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import SpecError
from celery_operator.services.ports import Broker, Clock, ResultBackend

AMQP_SCHEMES = ("amqp", "amqps", "pyamqp")


class CeleryConnections:
    """The port ``Connections``.

    Args:
        clock: For the header that tells when a message was published.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._brokers: dict[str, Broker] = {}
        self._backends: dict[str, ResultBackend] = {}

    def broker(self, url: str) -> Broker:
        """See the port."""
        if url not in self._brokers:
            self._brokers[url] = self._open_broker(url)
        return self._brokers[url]

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
        if url not in self._backends:
            self._backends[url] = self._open_backend(url)
        return self._backends[url]

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

    async def close_all(self) -> None:
        """Close everything that was given out."""
        opened: list[Broker | ResultBackend] = [*self._brokers.values(), *self._backends.values()]
        self._brokers.clear()
        self._backends.clear()
        await asyncio.gather(*(each.close() for each in opened))


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
