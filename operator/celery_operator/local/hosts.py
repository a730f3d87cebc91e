"""Which server a URL means on this machine, where names of Kubernetes Services mean nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

REDIS_PORT = 6379
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^/@\s]*@)?(?P<host>[A-Za-z0-9_.-]+)(?P<port>:\d+)?(?=[/?#\s]|$)"
)
_REDIS_SCHEMES = frozenset({"redis", "rediss"})
_CLUSTER_SUFFIXES = (".svc", ".svc.cluster.local")


def is_service_name(host: str) -> bool:
    """Whether a host name can only be that of a Kubernetes Service: one label (not ``localhost``) or ``….svc``."""
    name = host.lower().rstrip(".")
    return ("." not in name and name != "localhost" and not name.isdigit()) or name.endswith(_CLUSTER_SUFFIXES)


@dataclass(frozen=True, slots=True)
class HostMap:
    """Where names of Services lead on this machine.

    A host that is named explicitly leads where it was told to. Any other name of a Service in a Redis URL leads to the
    embedded Redis (the database number is kept). Every other URL stays as it was written.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    """host -> ``host:port``."""
    embedded: str | None = None
    """``redis://:password@host:port`` of the embedded Redis, without a database; None while there is none."""

    def wants_embedded(self, text: str) -> bool:
        """Whether the text holds a Redis URL that only an embedded Redis can serve."""
        return any(self._is_embedded(found) for found in _URL.finditer(text))

    def unserved(self, text: str) -> tuple[str, ...]:
        """Return ``scheme://host`` of the URLs in the text that nothing on this machine serves."""
        return tuple(
            f"{found['scheme']}://{found['host']}"
            for found in _URL.finditer(text)
            if found["scheme"].lower() in ("amqp", "amqps", "pyamqp")
            and is_service_name(found["host"])
            and found["host"] not in self.named
        )

    def rewrite(self, text: str) -> str:
        """Return the text with its URLs as they are on this machine."""
        return _URL.sub(self._here, text)

    def _is_embedded(self, found: re.Match[str]) -> bool:
        host = found["host"]
        return found["scheme"].lower() in _REDIS_SCHEMES and host not in self.named and is_service_name(host)

    def _here(self, found: re.Match[str]) -> str:
        if self._is_embedded(found) and self.embedded is not None:
            return self.embedded
        if found["host"] in self.named:
            return f"{found['scheme']}://{found['user'] or ''}{self.named[found['host']]}"
        return found[0]


def parse_mapping(text: str) -> tuple[str, str]:
    """Read ``NAME=HOST[:PORT]`` into (name, host:port); the port defaults to Redis' own. Raises ValueError."""
    name, separator, target = text.partition("=")
    host, _, port = target.partition(":")
    if not separator or not name or not host or (port and not port.isdigit()):
        raise ValueError(f"expected NAME=HOST:PORT, for instance redis=127.0.0.1:6379, got {text!r}")
    return name, f"{host}:{port or REDIS_PORT}"
