"""A Redis that speaks TLS, with a certificate that nobody but its own CA vouches for."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers_kinds import RedisKind
from servers_process import LOOPBACK, free_port
from servers_redis import redis_server


@dataclass(frozen=True, slots=True)
class TlsRedis:
    """Where it is, and the certificate to trust."""

    port: int
    certificate: Path

    def url(self, db: int = 0) -> str:
        """Return a database's URL, which says nothing of certificates."""
        return f"rediss://{LOOPBACK}:{self.port}/{db}"

    def trusting(self, db: int = 0) -> str:
        """Return a URL with the certificate to check the server's against."""
        return f"{self.url(db)}?ssl_cert_reqs=required&ssl_ca_certs={self.certificate}&ssl_check_hostname=true"


@contextmanager
def tls_redis(kind: RedisKind | None = None) -> Iterator[TlsRedis]:
    """Start it."""
    with tempfile.TemporaryDirectory(prefix="tls-") as name:
        directory, port = Path(name), free_port()
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=redis"]
        command += ["-addext", f"subjectAltName=IP:{LOOPBACK}"]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
        files = {"cert": "cert.pem", "key": "key.pem", "ca-cert": "cert.pem"}
        arguments = [part for name, file in files.items() for part in (f"--tls-{name}-file", str(directory / file))]
        with redis_server("--tls-port", str(port), "--tls-auth-clients", "no", *arguments, kind=kind):
            yield TlsRedis(port, directory / "cert.pem")
