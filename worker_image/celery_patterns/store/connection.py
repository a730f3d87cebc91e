"""One process's connection to the store."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from celery_patterns import protocol
from celery_patterns.store import names, place, sentinels
from celery_patterns.store.errors import StoreFault, StoreUnavailable
from celery_patterns.store.script import Argument, Script
from celery_patterns.store.settings import StoreSettings, store_url

SOCKET_SECONDS = 5.0
"""How long one answer may take: longer than any script here runs, shorter than a lease."""

SCRIPTS_OWN = re.compile(r"WRONGTYPE |(?!([A-Z]+|ACL failure in script:|The user executing the script) ).*user_script:")
"""Errors that a script has from its own commands. What else Redis refuses to it (memory, permission, a replica) is told
with a code before it, or in words about the user."""

CELERYS_SPELLING = re.compile(r"(?<=[?&]ssl_cert_reqs=)CERT_(REQUIRED|OPTIONAL|NONE)")
"""In URLs of Celery, whose driver knows the last word alone, in small letters."""

_stores: WeakSet[Store] = WeakSet()


def _after_fork() -> None:
    """A lock that another thread held at the fork would never be released in the child."""
    for store in _stores:
        store.forked()


os.register_at_fork(after_in_child=_after_fork)


class Store:
    """The Redis in which an application's patterns keep their state; safe for threads, and for children by fork.

    Args:
        app: The Celery application.
        settings: Where the state lies. Default: read from the application and the environment.

    Raises:
        ValueError: If a setting is not of its form.
    """

    def __init__(self, app: Any, settings: StoreSettings | None = None) -> None:
        self.settings = settings or StoreSettings.of(app.conf)
        self._app = app
        self._client: Any = None
        self._pid = 0
        self._lock = threading.Lock()
        _stores.add(self)

    def key(self, kind: str, name: str) -> str:
        """Return the key of one thing: ``{<prefix>}:<kind>:<name>``."""
        return names.key(self.settings.prefix, kind, name)

    def pattern(self, kind: str) -> str:
        """Return the pattern (of SCAN and PSUBSCRIBE) of all keys of one kind."""
        return names.pattern(self.settings.prefix, kind)

    @property
    def client(self) -> Any:
        """The redis client of this process (bytes out). It connects when it is first used.

        Raises:
            StoreNotConfigured: If no Redis is known.
        """
        if self._pid != os.getpid():
            self._connect()
        return self._client

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """Run a script.

        Raises:
            StoreUnavailable: If Redis does not answer or refuses.
            StoreFault: If the script itself fails.
        """
        return self.call(script, self.client, keys, arguments)

    def call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """Call something that talks to Redis, with its errors told as the store's.

        Raises:
            StoreUnavailable: If Redis does not answer or refuses.
            StoreFault: If a script itself fails, or a key holds something else than it should.
        """
        try:
            return function(*arguments, **options)
        except (RedisError, OSError) as error:
            why = protocol.mask_url(str(error)) or type(error).__name__
            if type(error) is ResponseError and SCRIPTS_OWN.match(why):
                raise StoreFault(f"the patterns' store ({self.address}): {why}") from error
            raise StoreUnavailable(f"the patterns' store ({self.address}): {why}") from error

    @property
    def address(self) -> str:
        """Where the store is, without credentials."""
        return f"{place.of(self.client)}/{self.client.connection_pool.connection_kwargs.get('db') or 0}"

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        with self._lock:
            client, self._client, pid, self._pid = self._client, None, self._pid, 0
        if client is not None and pid == os.getpid():
            client.close()

    def forked(self) -> None:
        """Begin anew in a child: what the parent has open is neither used nor closed."""
        self._lock = threading.Lock()

    def _connect(self) -> None:
        with self._lock:
            # A forked child must not use, nor close, what its parent has open: it forgets it.
            if self._pid != os.getpid():
                self._client = self._make()
                self._pid = os.getpid()

    def _make(self) -> Any:
        # Whoever calls knows how long it may wait; the driver's own back-off would take ten seconds and more.
        options: dict[str, Any] = {
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "retry": Retry(NoBackoff(), 1),
            "retry_on_timeout": False,
        }
        url = store_url(self.settings, self._app.conf)
        if url is not None and url.startswith(sentinels.SCHEME):
            return sentinels.client(url, self._app.conf, options)
        if url is not None:
            if url.startswith("unix://"):
                del options["socket_connect_timeout"]
            tls = self._app.conf.broker_use_ssl
            if self.settings.url is None and isinstance(tls, dict):  # it is the broker's, and so is how to reach it
                options |= {"connection_class": redis.SSLConnection, **tls}
            return redis.Redis.from_url(CELERYS_SPELLING.sub(lambda word: word[1].lower(), url), **options)
        backend = self._app.backend
        parameters = {**backend.connparams, **options}
        if "path" in parameters:
            del parameters["socket_connect_timeout"]
        client = backend._create_client(**parameters)  # noqa: SLF001 - the way its own client is made (TLS, Sentinel)
        sentinels.ask_once(client)
        return client
