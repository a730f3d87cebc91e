"""The Kubernetes API over one connection pool: quick enough to be asked many times a second, unlike kubectl."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3
import yaml

JSON = "application/json"
MERGE = "application/merge-patch+json"

CUSTOM = "/apis/celery-operator.dev/v1alpha1"
ROUTES = {
    "CeleryApp": (CUSTOM, "celeryapps"),
    "CeleryWorkerPool": (CUSTOM, "celeryworkerpools"),
    "CeleryWorkflow": (CUSTOM, "celeryworkflows"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Event": ("/api/v1", "events"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "Pod": ("/api/v1", "pods"),
    "Secret": ("/api/v1", "secrets"),
    "Service": ("/api/v1", "services"),
}
"""Kind to (path of its API group and version, plural)."""

REQUEST_SECONDS = 15.0
"""A loaded two-core node answers within a second or two; what takes longer is a failure worth seeing."""

Manifest = dict[str, Any]


class ApiError(Exception):
    """The API server's refusal, with its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Api:
    """One cluster, as its administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        """Read the kubeconfig's current context; nothing is asked of the server yet."""
        document = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        context = _named(document["contexts"], document["current-context"])["context"]
        cluster = _named(document["clusters"], context["cluster"])["cluster"]
        user = _named(document["users"], context["user"])["user"]
        self._files = tempfile.TemporaryDirectory(prefix="cluster-tests-")
        self._server = str(cluster["server"]).rstrip("/")
        self._http = urllib3.PoolManager(
            maxsize=8,
            ca_certs=self._file("ca.crt", cluster["certificate-authority-data"]),
            cert_file=self._file("client.crt", user["client-certificate-data"]),
            key_file=self._file("client.key", user["client-key-data"]),
            timeout=urllib3.Timeout(REQUEST_SECONDS),
            retries=urllib3.Retry(connect=2, read=0, redirect=0, status=0, backoff_factor=0.2),
        )

    def close(self) -> None:
        """Let go of connections and of the files with the keys."""
        self._http.clear()
        self._files.cleanup()

    def _file(self, name: str, data: str) -> str:
        path = Path(self._files.name) / name
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(data))
        return str(path)

    def request(self, method: str, path: str, body: object = None, *, content_type: str = JSON) -> Manifest:
        """Return the JSON answer to one request. Raises ApiError for a status of 400 or above."""
        headers = {"Accept": JSON}
        if body is not None:
            headers["Content-Type"] = content_type
        data = None if body is None else json.dumps(body).encode()
        answer = self._http.request(method, self._server + path, body=data, headers=headers)
        text = answer.data.decode()
        document: Manifest = json.loads(text) if text.startswith("{") else {"message": text}
        if answer.status >= 400:
            raise ApiError(answer.status, str(document.get("message", text)))
        return document

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object; None if there is none."""
        try:
            return self.request("GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, namespace: str, **selectors: str) -> list[Manifest]:
        """Return objects; ``labelSelector`` and ``fieldSelector`` choose among them."""
        query = "&".join(f"{name}={value.replace('=', '%3D')}" for name, value in selectors.items())
        items: list[Manifest] = self.request("GET", _path(kind, namespace) + (f"?{query}" if query else ""))["items"]
        return items

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object as strictly as ``kubectl apply`` does: fields that the schema does not know are refused."""
        kind, namespace = manifest["kind"], manifest["metadata"]["namespace"]
        return self.request("POST", _path(kind, namespace) + "?fieldValidation=Strict", manifest)

    def patch(self, kind: str, namespace: str, name: str, change: Mapping[str, Any]) -> Manifest:
        """Merge a change into an object."""
        return self.request("PATCH", _path(kind, namespace, name), change, content_type=MERGE)

    def delete(self, kind: str, namespace: str, name: str, **query: str) -> None:
        """Delete an object; nothing happens if it is gone."""
        asked = "&".join(f"{key}={value}" for key, value in query.items())
        try:
            self.request("DELETE", _path(kind, namespace, name) + (f"?{asked}" if asked else ""))
        except ApiError as error:
            if error.status != 404:
                raise


def _named(entries: list[Manifest], name: str) -> Manifest:
    return next(entry for entry in entries if entry["name"] == name)


def _path(kind: str, namespace: str, name: str = "") -> str:
    group, plural = ROUTES[kind]
    return f"{group}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")
