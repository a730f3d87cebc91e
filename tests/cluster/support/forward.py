"""Reaching a pod's port from the test's own process."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable
from typing import Any

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from servers import eventually
from support.cluster import Cluster

_LISTENING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")
STOP_SECONDS = 5.0
LONGEST_OUTAGE_SECONDS = 30.0
"""A forwarder that broke is started anew; what does not work for this long is a finding."""


class Forward:
    """``kubectl port-forward`` to one port of a pod, on a free port of the loopback interface."""

    def __init__(self, cluster: Cluster, namespace: str, target: str, port: int) -> None:
        """``target`` is as in kubectl: ``pod/redis``."""
        self._cluster = cluster
        self._arguments = ("port-forward", "-n", namespace, "--address=127.0.0.1", target, f":{port}")
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The local port; the forwarder is started if it does not run."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._port = eventually(self._start, within=LONGEST_OUTAGE_SECONDS, every=0.3, what=str(self._arguments))
        return self._port

    def _start(self) -> int:
        process = subprocess.Popen(
            (str(self._cluster.kubectl_program), *self._arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._cluster.environment(),
        )
        assert process.stdout is not None
        self._process = process
        # kubectl's first line says the port, or why there is none; it then goes on silently.
        line = process.stdout.readline()
        found = _LISTENING.search(line)
        if found is None:
            self.close()
            raise ConnectionError(line.strip() or "kubectl port-forward ended without a word")
        return int(found[1])

    def close(self) -> None:
        """End the forwarder."""
        if self._process is None:
            return
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None


class RedisInPod:
    """One Redis of a test's namespace, as its own process sees it."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._clients: dict[int, redis.Redis] = {}

    def url(self, database: int) -> str:
        """Return the URL by which this process reaches a database now."""
        return f"redis://127.0.0.1:{self._forward.port}/{database}"

    def ask(self, database: int, question: Callable[[redis.Redis], Any]) -> Any:
        """Return what the question finds; asked again after a lost connection, so it has to be harmless twice."""

        def attempt() -> tuple[Any]:
            client = self._clients.get(database)
            if client is None:
                client = redis.Redis.from_url(self.url(database), socket_timeout=5.0, socket_connect_timeout=5.0)
                self._clients[database] = client
            try:
                return (question(client),)
            except (RedisConnectionError, RedisTimeoutError):
                self._let_go()
                raise

        return eventually(attempt, within=LONGEST_OUTAGE_SECONDS, every=0.2, what="an answer of the test's Redis")[0]

    def _let_go(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._forward.close()

    def close(self) -> None:
        """End connections and forwarder."""
        self._let_go()
