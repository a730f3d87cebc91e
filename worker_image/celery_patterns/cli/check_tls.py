"""Whether a server has to prove who it is, and what to set when a connection by TLS fails.

What the driver says of that is about certificates, not about settings.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

from redis.connection import SSLConnection

from celery_patterns.cli.findings import Finding, ok, warning

WHERE = "in the rediss:// URL, or in broker_use_ssl or redis_backend_use_ssl"

ADVICE = (
    (
        ("Hostname mismatch", "IP address mismatch"),
        "a URL with a name that is in the server's certificate (subjectAltName), or a certificate with this name",
    ),
    (("certificate has expired", "certificate is not yet valid"), "a new certificate of the server; clocks that agree"),
    (
        ("certificate verify failed", "CERTIFICATE_VERIFY_FAILED"),
        f"ssl_ca_certs=FILE {WHERE}: the certificate of the authority that has signed the server's",
    ),
    (("certificate required", "CERTIFICATE_REQUIRED"), f"ssl_certfile=FILE and ssl_keyfile=FILE {WHERE}"),
    (
        ("wrong version number", "WRONG_VERSION_NUMBER", "record layer failure"),
        "the server's TLS port, or redis:// instead of rediss://: there is no TLS at this port",
    ),
    (
        ("closed by server", "reset by peer", "Broken pipe", "EOF occurred"),
        f"its log: a TLS port wants rediss://, and perhaps ssl_certfile=FILE and ssl_keyfile=FILE {WHERE}",
    ),
    (("Timeout connecting to server",), "its address, network; for rediss:// a port that speaks TLS"),
    (("No such file or directory",), f"files that exist as ssl_ca_certs, ssl_certfile and ssl_keyfile {WHERE}"),
)
"""Parts of what OpenSSL and the driver say, and what helps; the first that fits."""

UNCHECKED = (None, ssl.CERT_NONE, "none", "CERT_NONE")
"""Values of ssl_cert_reqs; kombu's own, where a rediss:// URL has none."""


def checked(client: Any, whose: str) -> Iterator[Finding]:
    """Whether a server that is spoken to over TLS has to prove who it is."""
    pool = client.connection_pool
    if not issubclass(pool.connection_class, SSLConnection):
        return
    if pool.connection_kwargs.get("ssl_cert_reqs", ssl.CERT_REQUIRED) in UNCHECKED:
        yield warning(
            "tls",
            f"{whose}the server's certificate is not checked: whoever answers gets the password and the tasks",
            "ssl_cert_reqs=required&ssl_ca_certs=/PATH/ca.pem in the URL",
        )
    else:
        yield ok("tls", f"{whose}the server's certificate is checked")


def advice(problem: object, otherwise: str) -> str:
    """Return what to set after this problem with TLS, or something else if it is none."""
    text = str(problem)
    return next((helps for parts, helps in ADVICE if any(part in text for part in parts)), otherwise)
