"""``rediss://``: the server's certificate is checked against the CA that the URL names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.connections import CeleryConnections
from celery_operator.domain.errors import BrokerError, ResultBackendError
from servers_tls import TlsRedis, tls_redis


@pytest.fixture(scope="module")
def server() -> Iterator[TlsRedis]:
    with tls_redis() as server:
        yield server


@pytest.mark.parametrize("trusts", [True, False], ids=["its certificate", "whoever answers"])
async def test_a_trusted_server_is_spoken_to(server: TlsRedis, *, trusts: bool) -> None:
    connections = CeleryConnections(SystemClock())
    url = server.trusting() if trusts else f"{server.url()}?ssl_cert_reqs=CERT_NONE"
    try:
        await connections.result_backend(url).check()
        assert await connections.broker(url).waiting(["q"]) == {"q": 0}
        await connections.broker(url).revoke(["x"])
    finally:
        await connections.close_all()


async def test_an_unknown_certificate_is_refused_also_without_any_option(server: TlsRedis) -> None:
    connections = CeleryConnections(SystemClock())
    try:
        with pytest.raises(ResultBackendError, match="CERTIFICATE_VERIFY_FAILED"):
            await connections.result_backend(server.url()).check()
        with pytest.raises(BrokerError, match="CERTIFICATE_VERIFY_FAILED"):
            await connections.broker(server.url()).waiting(["q"])
    finally:
        await connections.close_all()
