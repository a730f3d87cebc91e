"""What can be said about resources before anything runs: what the API server and the operator would refuse."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from celery_operator.adapters.clock import SystemClock
from celery_operator.adapters.connections import CeleryConnections
from celery_operator.api.app import AppSpec, CeleryApp, SecretKeyRef
from celery_operator.api.validation import InvalidResource, validate_resource
from celery_operator.api.worker_pool import CeleryWorkerPool, WorkerPoolSpec
from celery_operator.api.workflow import CeleryWorkflow, WorkflowSpec
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools.manifests import PoolIdentity, worker_deployment
from celery_operator.domain.pools.resolved_app import ResolvedApp, ResolvedEndpoint
from celery_operator.domain.pools.validation import check_pool
from celery_operator.domain.workflows.compile import compile_workflow
from celery_operator.local.manifests import OUR_KINDS, Document, Problem, did_you_mean
from celery_operator.local.objects import key_of
from celery_operator.local.pod_fields import unknown_fields
from celery_operator.services.ports import Manifest, ObjectKey

Model = CeleryApp | CeleryWorkerPool | CeleryWorkflow
SOME_APP = ResolvedApp(ResolvedEndpoint("redis://redis/0"), ResolvedEndpoint("redis://redis/1"), application="app")
"""Stands for a pool's application, of which nothing decides whether the pool's template is right."""
_LEADING_PATH = re.compile(r"^(spec(?:[.\[][^\s:(]+)?)[:\s]+")


@dataclass(slots=True)
class _Known:
    """What the documents bring."""

    apps: dict[ObjectKey, AppSpec] = field(default_factory=dict)
    secrets: dict[ObjectKey, Manifest] = field(default_factory=dict)
    queues: dict[str, set[str]] = field(default_factory=dict)
    """Namespace -> queues that some pool consumes."""


@dataclass(slots=True)
class Findings:
    """What was found, each kind in the order of the documents."""

    wrong: list[Problem] = field(default_factory=list)
    """Refused anywhere."""
    missing: list[Problem] = field(default_factory=list)
    """Referred to, and not among the documents: it may exist in a cluster, but not on this machine."""
    doubtful: list[Problem] = field(default_factory=list)
    """Allowed, and probably not what was meant."""


def check(documents: Sequence[Document]) -> Findings:
    """Look at resources without running them."""
    found = Findings()
    valid: list[tuple[Document, Model]] = []
    known = _Known()
    for document in documents:
        if document.manifest["kind"] == "Secret":
            known.secrets[key_of(document.manifest)] = document.manifest
            found.wrong.extend(_wrong_secret(document))
        if document.manifest["kind"] not in OUR_KINDS:
            continue
        try:
            model = validate_resource(document.manifest)
            _plan(model)
        except InvalidResource as error:
            found.wrong.extend(document.problem(problem.message, problem.path) for problem in error.problems)
        except SpecError as error:
            found.wrong.append(_located(document, error.message))
        else:
            valid.append((document, model))
            if isinstance(model, CeleryApp):
                known.apps[key_of(document.manifest)] = model.spec
            elif isinstance(model, CeleryWorkerPool):
                names = {queue.name for queue in model.spec.queues}
                known.queues.setdefault(key_of(document.manifest).namespace, set()).update(names)
    for document, model in valid:
        found.wrong.extend(_wrong_servers(document, model.spec, known))
        found.wrong.extend(_wrong_keys(document, model.spec, known))
        found.missing.extend(_missing(document, model.spec, known))
        found.doubtful.extend(_unserved_queues(document, model, known))
        found.doubtful.extend(_unknown_to_kubernetes(document, model))
    return found


def _wrong_secret(document: Document) -> Iterator[Problem]:
    """Yield what the API server would refuse in a Secret. No value is ever shown."""
    for part in ("data", "stringData"):
        values = document.manifest.get(part)
        if values is None:
            continue
        if not isinstance(values, Mapping):
            kind = "a list" if isinstance(values, list) else f"{type(values).__name__}"
            yield document.problem(f"expected names with values, not {kind}", part)
            continue
        for key, value in values.items() if part == "data" else ():
            try:
                base64.b64decode("".join(str(value).split()), validate=True)
            except (binascii.Error, ValueError):
                yield document.problem("not base64: write plain text under stringData", f"{part}.{key}")


def _unknown_to_kubernetes(document: Document, model: Model) -> Iterator[Problem]:
    """Yield fields of a pool's pod template that the Deployment will be refused for, unless the cluster is newer."""
    if isinstance(model, CeleryWorkerPool) and model.spec.template is not None:
        for path, message in unknown_fields(model.spec.template, "spec.template"):
            yield document.problem(message, path)


def _plan(model: Model) -> None:
    """Do with a valid resource what the operator does first. Raises SpecError."""
    if isinstance(model, CeleryWorkflow):
        compile_workflow(model.spec)
    elif isinstance(model, CeleryWorkerPool):
        check_pool(model.spec)
        worker_deployment(model.spec, SOME_APP, PoolIdentity("default", "pool", ""), token="", default_image="image")


def _located(document: Document, message: str, path: str = "") -> Problem:
    """Return the problem of a message that may begin with the path of its field."""
    found = _LEADING_PATH.match(message)
    if found is None:
        return document.problem(message, path)
    return document.problem(message[found.end() :], found[1])


def _app_of(
    document: Document, spec: AppSpec | WorkerPoolSpec | WorkflowSpec, known: _Known
) -> tuple[AppSpec | None, str]:
    """Return the application that a resource is, holds or names (None: it is not known), and the path to it."""
    if isinstance(spec, AppSpec):
        return spec, "spec"
    if spec.app is not None:
        return spec.app, "spec.app"
    name = "" if spec.app_ref is None else spec.app_ref.name
    return known.apps.get(ObjectKey(key_of(document.manifest).namespace, name)), "spec.appRef"


def _wrong_servers(
    document: Document, spec: AppSpec | WorkerPoolSpec | WorkflowSpec, known: _Known
) -> Iterator[Problem]:
    """Yield problems of URLs that no adapter can read, and of a workflow whose application has no result backend."""
    app, path = _app_of(document, spec, known)
    if app is None:
        return
    connection = app.connection
    if path != "spec.appRef":  # else it is told where it stands
        connections = CeleryConnections(SystemClock())  # connects to nothing before it is used
        for name, endpoint, opened in (
            ("broker", connection.broker, connections.broker),
            ("resultBackend", connection.result_backend, connections.result_backend),
        ):
            if endpoint is not None and endpoint.url is not None:
                try:
                    opened(endpoint.url)
                except SpecError as error:
                    yield _located(document, error.message, f"{path}.connection.{name}.url")
    if isinstance(spec, WorkflowSpec) and connection.result_backend is None:
        message = "its application has no resultBackend: a workflow's steps cannot be followed without results"
        yield document.problem(message, path)


def _missing(document: Document, spec: AppSpec | WorkerPoolSpec | WorkflowSpec, known: _Known) -> Iterator[Problem]:
    """Yield a problem for each application and Secret that no document brings."""
    namespace = key_of(document.manifest).namespace
    app, path = _app_of(document, spec, known)
    if not isinstance(spec, AppSpec) and spec.app_ref is not None:
        name = spec.app_ref.name
        if app is None:
            hint = did_you_mean(name, [key.name for key in known.apps if key.namespace == namespace])
            yield document.problem(f"there is no CeleryApp {name} in these files.{hint}", "spec.appRef.name")
        return
    for where, reference in _secrets(app, path):
        secret = known.secrets.get(ObjectKey(namespace, reference.name))
        if secret is None:
            yield document.problem(f"there is no Secret {reference.name} in these files", f"{where}.name")


def _unserved_queues(document: Document, model: Model, known: _Known) -> Iterator[Problem]:
    """Yield a note for each queue of a workflow that no pool of the same files and namespace consumes."""
    if not isinstance(model, CeleryWorkflow):
        return
    served = known.queues.get(key_of(document.manifest).namespace, set())
    calls = [call for node in compile_workflow(model.spec).nodes for call in (node.call, node.combine) if call]
    for queue in sorted({call.queue for call in calls} - served):
        pools = f"they consume {', '.join(sorted(served))}" if served else "there is none"
        message = f"tasks go to the queue {queue}, which no CeleryWorkerPool in these files consumes ({pools})"
        yield document.problem(message)


def _wrong_keys(document: Document, spec: AppSpec | WorkerPoolSpec | WorkflowSpec, known: _Known) -> Iterator[Problem]:
    """Yield a problem for each key that a Secret among the documents does not have."""
    app, path = _app_of(document, spec, known)
    for where, reference in _secrets(None if path == "spec.appRef" else app, path):
        secret = known.secrets.get(ObjectKey(key_of(document.manifest).namespace, reference.name))
        keys = [] if secret is None else _keys(secret)
        if secret is not None and reference.key not in keys:
            has = f"it has {', '.join(keys)}.{did_you_mean(reference.key, keys)}" if keys else "it has none"
            yield document.problem(f"Secret {reference.name} has no key {reference.key}; {has}", f"{where}.key")


def _keys(secret: Mapping[str, object]) -> list[str]:
    parts = (secret.get("data"), secret.get("stringData"))
    return sorted({str(key) for part in parts if isinstance(part, Mapping) for key in part})


def _secrets(app: AppSpec | None, path: str) -> Iterator[tuple[str, SecretKeyRef]]:
    if app is None:
        return
    for name, endpoint in (("broker", app.connection.broker), ("resultBackend", app.connection.result_backend)):
        if endpoint is not None and endpoint.url_from is not None:
            yield f"{path}.connection.{name}.urlFrom.secretKeyRef", endpoint.url_from.secret_key_ref
