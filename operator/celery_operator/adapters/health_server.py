"""The operator's HTTP endpoints: liveness, readiness, metrics."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

PATH_LIVE = "/healthz"
"""200 while the event loop runs: it answers this very request, so one that is stuck does not."""
PATH_READY = "/readyz"
"""200 once the operator does its work, or stands by for the leader."""
PATH_METRICS = "/metrics"

STOP_SECONDS = 1.0
"""For requests under way when the server ends."""


class HealthServer:
    """Serves the endpoints until ``stop()``.

    Args:
        ready: None if the operator is ready, else a sentence that says what it waits for.
        registry: What ``/metrics`` shows.
        host: Address to listen on; all by default, since kubelet asks from the node.
        port: 0 chooses a free one.
    """

    def __init__(
        self, *, ready: Callable[[], str | None], registry: CollectorRegistry, host: str | None = None, port: int = 0
    ) -> None:
        self._ready = ready
        self._registry = registry
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Begin to listen; return the port. Raises OSError if the port is taken."""
        app = web.Application()
        app.router.add_get(PATH_LIVE, self._live)
        app.router.add_get(PATH_READY, self._answer_ready)
        app.router.add_get(PATH_METRICS, self._metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _live(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _answer_ready(self, _request: web.Request) -> web.Response:
        missing = self._ready()
        if missing is not None:
            return web.Response(status=503, text=f"{missing}\n")
        return web.Response(text="ready\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
