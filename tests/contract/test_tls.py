"""``rediss://``: the server's certificate is checked against the CA that the URL names."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.connections import CeleryConnections
from celery_operator.domain.errors import BrokerError, ResultBackendError
from servers import LOOPBACK, free_port, redis_server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a self-signed certificate for the loopback address."""
    directory = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=redis"]
    command += ["-addext", f"subjectAltName=IP:{LOOPBACK}"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def address(certificate: Path) -> Iterator[str]:
    port = free_port()
    files = [f"--tls-{name}-file" for name in ("cert", "key", "ca-cert")]
    paths = [str(certificate / name) for name in ("cert.pem", "key.pem", "cert.pem")]
    arguments = [part for pair in zip(files, paths, strict=True) for part in pair]
    with redis_server("--tls-port", str(port), "--tls-auth-clients", "no", *arguments):
        yield f"rediss://{LOOPBACK}:{port}/0"


@pytest.mark.parametrize(
    "query", ["ssl_cert_reqs=required&ssl_ca_certs={ca}&ssl_check_hostname=true", "ssl_cert_reqs=CERT_NONE"]
)
async def test_a_trusted_server_is_spoken_to(address: str, certificate: Path, query: str) -> None:
    connections = CeleryConnections(SystemClock())
    url = f"{address}?{query.format(ca=certificate / 'cert.pem')}"
    try:
        await connections.result_backend(url).check()
        assert await connections.broker(url).waiting(["q"]) == {"q": 0}
        await connections.broker(url).revoke(["x"])
    finally:
        await connections.close_all()


async def test_an_unknown_certificate_is_refused_also_without_any_option(address: str) -> None:
    connections = CeleryConnections(SystemClock())
    try:
        with pytest.raises(ResultBackendError, match="CERTIFICATE_VERIFY_FAILED"):
            await connections.result_backend(address).check()
        with pytest.raises(BrokerError, match="CERTIFICATE_VERIFY_FAILED"):
            await connections.broker(address).waiting(["q"])
    finally:
        await connections.close_all()
