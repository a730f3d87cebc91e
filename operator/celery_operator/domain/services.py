"""Names of Services as they are seen from another namespace."""

from __future__ import annotations

import re

_AUTHORITY = re.compile(
    r"(?P<before>[a-z][a-z0-9+.-]*://(?:[^/?#]*@)?)(?P<host>[a-z0-9]([-a-z0-9]*[a-z0-9])?)(?=[:/?#]|$)"
)
"""Everything up to a host of a single label: no dots, so neither an address nor a name that is complete."""


def qualify_host(url: str, namespace: str) -> str:
    """Return the URL with a host of one label made the name of a Service in that namespace.

    ``redis://redis:6379/0`` means the Service of its own namespace to a worker; the operator runs in another one. URLs
    with several servers (``;``), other hosts and ``localhost`` stay as they are.
    """
    found = _AUTHORITY.match(url)
    if found is None or found["host"] == "localhost" or ";" in url:
        return url
    return f"{found['before']}{found['host']}.{namespace}.svc{url[found.end() :]}"
