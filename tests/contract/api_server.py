"""The part of a Kubernetes API server that the adapters use, over real HTTP: versions, patches, refusals, and faults.

It has no admission, no schemas and no garbage collection; what the real one does is shown by the cluster tests.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from aiohttp import web

from servers import LOOPBACK

Manifest = dict[str, Any]


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    raw_path: str
    query: dict[str, str]
    content_type: str
    authorization: str
    body: Any


@dataclass
class ApiServer:
    """Serves ``/api`` and ``/apis``; ``faults`` are used up first, one for each request."""

    token: str = "token-1"
    objects: dict[str, Manifest] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    faults: list[Callable[[web.Request], web.Response]] = field(default_factory=list)
    url: str = ""
    _version: int = 100

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, 0)
        await site.start()
        self.url = f"http://{LOOPBACK}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def kubeconfig(self, directory: Path, token: str | None = None) -> Path:
        """Write a kubeconfig for this server and return its path."""
        named = {"name": "only"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "only",
            "clusters": [{**named, "cluster": {"server": self.url}}],
            "users": [{**named, "user": {"token": token or self.token}}],
            "contexts": [{**named, "context": {"cluster": "only", "user": "only"}}],
        }
        path = directory / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    def put(self, path: str, manifest: Manifest) -> Manifest:
        """Store an object as a new version."""
        self._version += 1
        stored = copy.deepcopy(manifest)
        stored["metadata"].setdefault("uid", str(uuid.uuid4()))
        stored["metadata"]["resourceVersion"] = str(self._version)
        self.objects[path] = stored
        return copy.deepcopy(stored)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.seen.append(
            Seen(
                request.method,
                request.path,
                request.raw_path,
                dict(request.query),
                request.content_type,
                request.headers.get("Authorization", ""),
                json.loads(text) if text else None,
            )
        )
        if self.faults:
            return self.faults.pop(0)(request)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return status(401, "Unauthorized")
        return self._answer(request.method, request.path, self.seen[-1])

    def _answer(self, method: str, path: str, seen: Seen) -> web.Response:
        if "labelSelector" in seen.query:
            return web.json_response({"kind": "List", "items": self._listed(path, seen.query)})
        if method == "POST":
            return self._create(path, seen.body)
        live = self.objects.get(path.removesuffix("/status"))
        if live is None and seen.content_type != "application/apply-patch+yaml":
            name = path.rpartition("/")[2]
            return status(404, f'"{name}" not found', name=name)
        return self._of_object(method, path, live, seen)

    def _of_object(self, method: str, path: str, live: Manifest | None, seen: Seen) -> web.Response:
        match method:
            case "GET":
                return web.json_response(live)
            case "DELETE":
                del self.objects[path]
                return web.json_response({"kind": "Status", "status": "Success"})
            case "PUT":
                return self._replace(path, live or {}, seen.body)
            case "PATCH":
                return self._patch(path, live, seen)
            case _:
                return status(405, "method not allowed")

    def _listed(self, path: str, query: dict[str, str]) -> list[Manifest]:
        labels = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
        found = [each for where, each in self.objects.items() if where.startswith(f"{path}/")]
        return [each for each in found if labels.items() <= each["metadata"].get("labels", {}).items()]

    def _create(self, path: str, body: Manifest) -> web.Response:
        name = body["metadata"]["name"]
        if f"{path}/{name}" in self.objects:
            return status(409, f'"{name}" already exists', name=name)
        return web.json_response(self.put(f"{path}/{name}", body), status=201)

    def _replace(self, path: str, live: Manifest, body: Manifest) -> web.Response:
        if body["metadata"].get("resourceVersion", "") not in ("", live["metadata"]["resourceVersion"]):
            return status(409, "the object has been modified", name=body["metadata"]["name"])
        return web.json_response(self.put(path, body))

    def _patch(self, path: str, live: Manifest | None, seen: Seen) -> web.Response:
        match seen.content_type:
            case "application/apply-patch+yaml":
                merged = merge(live or {}, seen.body)
                return web.json_response(merged if merged == live else self.put(path, merged))
            case "application/merge-patch+json":
                return self._replace(path, live or {}, merge(live or {}, seen.body))
            case "application/json-patch+json":
                changed = copy.deepcopy(live or {})
                for operation in seen.body:
                    *parents, last = operation["path"].strip("/").split("/")
                    target = changed
                    for parent in parents:
                        target = target[parent]
                    target[last] = operation["value"]
                if path.endswith("/status"):
                    changed = {**changed, "spec": (live or {}).get("spec")}
                return self._replace(path.removesuffix("/status"), live or {}, changed)
            case _:
                return status(415, "unsupported media type")


def merge(live: Manifest, patch: Manifest) -> Manifest:
    """Return a JSON merge patch's outcome (RFC 7386)."""
    merged = copy.deepcopy(live)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            inner = merged.get(name)
            merged[name] = merge(inner if isinstance(inner, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def status(code: int, message: str, *, name: str = "", headers: dict[str, str] | None = None) -> web.Response:
    """Return a refusal as the API server words it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    if name:
        body["details"] = {"name": name}
    return web.json_response(body, status=code, headers=headers)


def refuse(code: int, message: str = "no", **options: Any) -> Callable[[web.Request], web.Response]:
    """Return a fault that answers so."""
    return lambda _request: status(code, message, **options)


def cut(request: web.Request) -> web.Response:
    """Break the connection instead of answering."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()
