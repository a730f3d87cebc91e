"""Connections whose URLs lead to where they lead on this machine."""

from __future__ import annotations

from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import SpecError
from celery_operator.local.hosts import HostMap
from celery_operator.services.ports import Broker, Connections, ResultBackend


class MappedConnections:
    """Satisfies ``services.ports.Connections`` over another one."""

    def __init__(self, connections: Connections, hosts: HostMap) -> None:
        self._connections = connections
        self._hosts = hosts

    def broker(self, url: str) -> Broker:
        """Return the broker. Raises SpecError(UNSUPPORTED_BROKER), also for one that is not on this machine."""
        unserved = self._hosts.unserved(url)
        if unserved:
            raise SpecError(
                Reason.UNSUPPORTED_BROKER,
                f"{unserved[0]} is the name of a Service, and local mode brings a Redis only: say where it is with "
                f"--map-host {unserved[0].rpartition('/')[2]}=HOST:PORT",
            )
        return self._connections.broker(self._hosts.rewrite(url))

    def result_backend(self, url: str) -> ResultBackend:
        """Return the backend. Raises SpecError(UNSUPPORTED_BACKEND)."""
        return self._connections.result_backend(self._hosts.rewrite(url))
