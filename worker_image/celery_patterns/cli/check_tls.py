"""What to set when a connection by TLS fails: what the driver says is about certificates, not about settings."""

from __future__ import annotations

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


def advice(problem: object, otherwise: str) -> str:
    """Return what to set after this problem with TLS, or something else if it is none."""
    text = str(problem)
    return next((helps for parts, helps in ADVICE if any(part in text for part in parts)), otherwise)
