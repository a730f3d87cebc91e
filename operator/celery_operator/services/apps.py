"""Celery applications: what a reference to one leads to, and the status of CeleryApp resources."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from celery_operator.api.app import AppSpec, AppStatus, CeleryApp, Endpoint, SecretKeyRef
from celery_operator.api.conditions import Condition, ConditionType, Reason
from celery_operator.api.model import NamedRef
from celery_operator.domain.conditions import ConditionClaim, set_conditions
from celery_operator.domain.errors import DependencyError, SpecError
from celery_operator.domain.messages import DEFAULT_QUEUE
from celery_operator.domain.pools.resolved_app import ResolvedApp, ResolvedEndpoint
from celery_operator.services.ports import Clock, Cluster, Connections, Manifest, ObjectKey
from celery_operator.services.spec_errors import spec_error
from celery_operator.services.status import StatusKeeper
from celery_patterns.protocol import mask_url

HEALTHY_PERIOD: Final = timedelta(seconds=10)
"""How often an app whose servers answer is looked at; two connections' worth of traffic."""
UNHEALTHY_PERIOD: Final = timedelta(seconds=1)
"""What is missing heals within a second of appearing."""

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"[^:]+://[^/]*@")


class AppResolver:
    """Follows references to applications and to the Secrets with their URLs."""

    def __init__(self, cluster: Cluster, *, qualify: Callable[[str, str], str] | None = None) -> None:
        """``qualify`` returns, for (URL, namespace), the URL under which the operator reaches that server."""
        self._cluster = cluster
        self._qualify = qualify

    async def resolve(self, namespace: str, app_ref: NamedRef | None, app: AppSpec | None) -> ResolvedApp:
        """Return the application that a pool or workflow names (``appRef``) or holds (``app``).

        Raises SpecError: INVALID_SPEC, APP_NOT_FOUND, SECRET_NOT_FOUND, UNSUPPORTED_BROKER, UNSUPPORTED_BACKEND;
        ClusterError if Kubernetes does not answer.
        """
        if app is not None and app_ref is None:
            return await self.follow(namespace, app, "spec.app")
        if app_ref is None or app is not None:
            raise SpecError(Reason.INVALID_SPEC, "spec: set exactly one of appRef and app")
        key = ObjectKey(namespace, app_ref.name)
        manifest = await self._cluster.get("CeleryApp", key)
        if manifest is None:
            raise SpecError(
                Reason.APP_NOT_FOUND, f"spec.appRef: there is no CeleryApp {key}: create it in this namespace"
            )
        where = f"CeleryApp {key}, spec"
        try:
            spec = CeleryApp.model_validate({"spec": manifest.get("spec")}).spec
        except ValidationError as error:
            raise SpecError(Reason.INVALID_SPEC, f"CeleryApp {key}: {spec_error(error).message}") from None
        return await self.follow(namespace, spec, where)

    async def follow(self, namespace: str, spec: AppSpec, where: str) -> ResolvedApp:
        """Return the application that a spec describes; ``where`` begins the paths in messages. Raises as resolve()."""
        connection = f"{where}.connection"
        broker = await self._endpoint(
            namespace, spec.connection.broker, f"{connection}.broker", Reason.UNSUPPORTED_BROKER
        )
        backend = None
        if spec.connection.result_backend is not None:
            path = f"{connection}.resultBackend"
            backend = await self._endpoint(namespace, spec.connection.result_backend, path, Reason.UNSUPPORTED_BACKEND)
        return ResolvedApp(
            broker=broker,
            result_backend=backend,
            application=spec.application,
            image=spec.image,
            recovery=spec.recovery,
        )

    async def _endpoint(self, namespace: str, endpoint: Endpoint, where: str, unsupported: Reason) -> ResolvedEndpoint:
        if endpoint.url is not None and endpoint.url_from is None:
            if _CREDENTIALS.match(endpoint.url):
                message = "must not contain a user or password: put the whole URL into a Secret and use urlFrom"
                raise SpecError(Reason.INVALID_SPEC, f"{where}.url {message}")
            _check_url(endpoint.url, f"{where}.url", unsupported)
            return self._reached(ResolvedEndpoint(endpoint.url), namespace)
        if endpoint.url_from is None or endpoint.url is not None:
            raise SpecError(Reason.INVALID_SPEC, f"{where}: set exactly one of url and urlFrom")
        reference = endpoint.url_from.secret_key_ref
        url = await self._secret_value(namespace, reference, f"{where}.urlFrom.secretKeyRef")
        _check_url(url, f"{where}: key {reference.key} of Secret {namespace}/{reference.name}", unsupported)
        return self._reached(ResolvedEndpoint(url, reference), namespace)

    def _reached(self, endpoint: ResolvedEndpoint, namespace: str) -> ResolvedEndpoint:
        if self._qualify is None:
            return endpoint
        return replace(endpoint, seen_from_operator=self._qualify(endpoint.url, namespace))

    async def _secret_value(self, namespace: str, reference: SecretKeyRef, where: str) -> str:
        key = ObjectKey(namespace, reference.name)
        manifest = await self._cluster.get("Secret", key)
        if manifest is None:
            raise SpecError(Reason.SECRET_NOT_FOUND, f"{where}: there is no Secret {key}: create it in this namespace")
        value = secret_text(manifest, reference.key)
        if value is None:
            raise SpecError(Reason.SECRET_NOT_FOUND, f"{where}: Secret {key} has no (text) key {reference.key}")
        return value


def secret_text(manifest: Manifest, key: str) -> str | None:
    """Return the text of one key of a Secret; None if it is missing or no text."""
    plain = (manifest.get("stringData") or {}).get(key)
    if plain is not None:
        return str(plain)
    encoded = (manifest.get("data") or {}).get(key)
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _check_url(url: str, where: str, unsupported: Reason) -> None:
    """Raise SpecError if a URL cannot be one. Its text is shown only where it stands in a resource, and masked."""
    if url != url.strip():
        message = "begins or ends with white space (a line break from `echo`? use `printf` or --from-literal)"
        raise SpecError(unsupported, f"{where}: the URL {message}")
    if not _SCHEME.match(url):
        raise SpecError(unsupported, f"{where}: expected a URL such as redis://redis:6379/0")
    try:
        urlsplit(mask_url(url).split(";")[0]).port  # noqa: B018 - reading it is the check
    except ValueError:
        raise SpecError(unsupported, f"{where}: the URL's host or port cannot be parsed") from None


class AppReconciler:
    """Keeps the status of CeleryApp resources: whether they are valid and their servers answer."""

    def __init__(self, *, cluster: Cluster, connections: Connections, apps: AppResolver, clock: Clock) -> None:
        self._connections = connections
        self._apps = apps
        self._clock = clock
        self._status = StatusKeeper(cluster, "CeleryApp")

    async def reconcile(self, manifest: Manifest) -> timedelta:
        """Look once, report, and return when to look again.

        Raises Gone if the app was deleted, ClusterError if Kubernetes does not answer.
        """
        if "deletionTimestamp" in manifest["metadata"]:
            return HEALTHY_PERIOD
        await self._status.must_exist(manifest)  # its status hardly ever changes, which would tell, too
        manifest = self._status.newest(manifest)
        claims = await self._claims(manifest)
        generation = manifest["metadata"].get("generation", 1)
        conditions = set_conditions(_conditions(manifest), claims, generation=generation, now=self._clock.now())
        status = AppStatus(observed_generation=generation, conditions=conditions)
        written = await self._status.write(manifest, status.to_resource(), _conditions(manifest), conditions)
        healthy = any(each.type is ConditionType.READY and each.status == "True" for each in claims)
        return HEALTHY_PERIOD if healthy and written else UNHEALTHY_PERIOD

    def forget(self, key: ObjectKey) -> None:
        """Drop what is remembered about a deleted app."""
        self._status.forget(key)

    async def _claims(self, manifest: Manifest) -> tuple[ConditionClaim, ...]:
        try:
            spec = CeleryApp.model_validate({"spec": manifest.get("spec")}).spec
            app = await self._apps.follow(manifest["metadata"]["namespace"], spec, "spec")
            broker = self._connections.broker(app.broker_url)
            backend = None if app.backend_url is None else self._connections.result_backend(app.backend_url)
        except (SpecError, ValidationError) as error:
            return _not_accepted(spec_error(error))
        kind = ConditionType.BROKER_REACHABLE
        broker_claim = await _reachable(kind, broker.waiting((DEFAULT_QUEUE,)), app.broker_url)
        kind = ConditionType.RESULT_BACKEND_REACHABLE
        if backend is None:
            backend_claim = ConditionClaim(kind, "Unknown", Reason.NOT_CHECKED, "spec.connection has no resultBackend")
        else:
            backend_claim = await _reachable(kind, backend.check(), app.backend_url or "")
        return (
            ConditionClaim(ConditionType.ACCEPTED, "True", Reason.ACCEPTED),
            broker_claim,
            backend_claim,
            _ready(broker_claim, backend_claim),
            ConditionClaim(ConditionType.RECONCILING, "False", Reason.SETTLED),
            ConditionClaim(ConditionType.STALLED, "False", Reason.MAKING_PROGRESS),
        )


def _conditions(manifest: Manifest) -> list[Condition]:
    try:
        return AppStatus.model_validate(manifest.get("status") or {}).conditions
    except ValidationError:
        return []


async def _reachable(kind: ConditionType, question: Awaitable[object], url: str) -> ConditionClaim:
    try:
        await question
    except DependencyError as error:
        return ConditionClaim(kind, "False", error.reason, without_url(error.message, url))
    return ConditionClaim(kind, "True", Reason.CONNECTED)


def without_url(message: str, url: str) -> str:
    """Return a message in which neither this URL nor any other shows its credentials."""
    return mask_url(message.replace(url, mask_url(url)))


def _ready(broker: ConditionClaim, backend: ConditionClaim) -> ConditionClaim:
    bad = next((claim for claim in (broker, backend) if claim.status == "False"), None)
    if bad is None:
        return ConditionClaim(ConditionType.READY, "True", Reason.CONNECTED)
    return ConditionClaim(ConditionType.READY, "False", bad.reason, f"see {bad.type.value}")


def _not_accepted(error: SpecError) -> tuple[ConditionClaim, ...]:
    see = "see Accepted"
    return (
        ConditionClaim(ConditionType.ACCEPTED, "False", error.reason, error.message),
        ConditionClaim(ConditionType.BROKER_REACHABLE, "Unknown", Reason.NOT_CHECKED),
        ConditionClaim(ConditionType.RESULT_BACKEND_REACHABLE, "Unknown", Reason.NOT_CHECKED),
        ConditionClaim(ConditionType.READY, "False", Reason.NOT_ACCEPTED, see),
        ConditionClaim(ConditionType.RECONCILING, "False", Reason.NOT_ACCEPTED, see),
        ConditionClaim(ConditionType.STALLED, "True", Reason.NOT_ACCEPTED, see),
    )
