"""What can be said about resources before anything runs: what the API server and the operator would refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from celery_operator.api.app import AppSpec, CeleryApp, SecretKeyRef
from celery_operator.api.validation import InvalidResource, validate_resource
from celery_operator.api.worker_pool import CeleryWorkerPool, WorkerPoolSpec
from celery_operator.api.workflow import CeleryWorkflow, WorkflowSpec
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools.validation import check_pool
from celery_operator.domain.workflows.compile import compile_workflow
from celery_operator.local.container import data_of
from celery_operator.local.manifests import OUR_KINDS, Document, Problem, did_you_mean
from celery_operator.local.objects import key_of

_LEADING_PATH = re.compile(r"^(spec(?:[.\[][^\s:(]+)?)[:\s]+")


def check(documents: Sequence[Document]) -> tuple[list[Problem], list[Problem]]:
    """Return what is wrong with resources, and what they refer to that is not among them.

    The first is refused anywhere; the second may exist in a cluster, but not on this machine.
    """
    wrong: list[Problem] = []
    missing: list[Problem] = []
    for document in documents:
        if document.manifest["kind"] not in OUR_KINDS:
            continue
        try:
            model = validate_resource(document.manifest)
            _plan(model)
        except InvalidResource as error:
            wrong.extend(document.problem(problem.message, problem.path) for problem in error.problems)
        except SpecError as error:
            wrong.append(_located(document, error.message))
        else:
            missing.extend(_missing(document, model, documents))
    return wrong, missing


def _plan(model: CeleryApp | CeleryWorkerPool | CeleryWorkflow) -> None:
    """Do with a valid resource what the operator does first. Raises SpecError."""
    if isinstance(model, CeleryWorkflow):
        compile_workflow(model.spec)
    elif isinstance(model, CeleryWorkerPool):
        check_pool(model.spec)


def _located(document: Document, message: str) -> Problem:
    """Return the problem of a message that may begin with the path of its field."""
    found = _LEADING_PATH.match(message)
    if found is None:
        return document.problem(message)
    return document.problem(message[found.end() :], found[1])


def _missing(
    document: Document, model: CeleryApp | CeleryWorkerPool | CeleryWorkflow, documents: Sequence[Document]
) -> Iterator[Problem]:
    """Yield a problem for each application, Secret and Secret's key that no document brings."""
    namespace = key_of(document.manifest).namespace
    present = {
        (other.manifest["kind"], *key_of(other.manifest)): other.manifest
        for other in documents
        if key_of(other.manifest).namespace == namespace
    }
    spec = model.spec
    if isinstance(spec, WorkerPoolSpec | WorkflowSpec) and spec.app_ref is not None:
        name = spec.app_ref.name
        if ("CeleryApp", namespace, name) not in present:
            known = [found for kind, _, found in present if kind == "CeleryApp"]
            hint = did_you_mean(name, known)
            yield document.problem(f"there is no CeleryApp {name} in these files.{hint}", "spec.appRef.name")
    app, path = (spec, "spec") if isinstance(spec, AppSpec) else (spec.app, "spec.app")
    for where, reference in _secrets(app, path):
        secret = present.get(("Secret", namespace, reference.name))
        if secret is None:
            yield document.problem(f"there is no Secret {reference.name} in these files", f"{where}.name")
        elif reference.key not in data_of(secret):
            keys = sorted(data_of(secret))
            hint = did_you_mean(reference.key, keys)
            message = f"Secret {reference.name} has no key {reference.key}; it has {', '.join(keys) or 'none'}.{hint}"
            yield document.problem(message, f"{where}.key")


def _secrets(app: AppSpec | None, path: str) -> Iterator[tuple[str, SecretKeyRef]]:
    if app is None:
        return
    for name, endpoint in (("broker", app.connection.broker), ("resultBackend", app.connection.result_backend)):
        if endpoint is not None and endpoint.url_from is not None:
            yield f"{path}.connection.{name}.urlFrom.secretKeyRef", endpoint.url_from.secret_key_ref
