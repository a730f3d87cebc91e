"""The text of a kubeconfig. Pure."""

from __future__ import annotations

import base64
import json


def render_kubeconfig(*, server: str, authority: bytes, certificate: bytes, key: bytes, name: str) -> str:
    """Return a kubeconfig with one cluster, user and context, and everything embedded.

    It is written as JSON, which is YAML too, so that neither side needs a YAML library.

    Args:
        server: The API server's URL.
        authority: The certificate of the authority that signed the server's certificate, PEM.
        certificate: The user's certificate, PEM.
        key: The user's private key, PEM.
        name: What the cluster, the user and the context are called.
    """
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": _data(authority)}}],
        "users": [
            {"name": name, "user": {"client-certificate-data": _data(certificate), "client-key-data": _data(key)}},
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return json.dumps(document, indent=2) + "\n"


def _data(pem: bytes) -> str:
    return base64.b64encode(pem).decode("ascii")
