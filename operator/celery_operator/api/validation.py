"""The gate for manifests where no API server stands before the operator, and for what its schema leaves unchecked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from celery_operator.api import API_VERSION
from celery_operator.api.app import CeleryApp
from celery_operator.api.model import MAX_NAME_LENGTH
from celery_operator.api.schema import NAME_RULE, resource_schema
from celery_operator.api.structural import (
    Problem,
    check_hidden,
    check_rules,
    check_unknown_fields,
    check_values,
    with_defaults,
)
from celery_operator.api.worker_pool import CeleryWorkerPool
from celery_operator.api.workflow import CeleryWorkflow

MODELS: Mapping[str, type[CeleryApp | CeleryWorkerPool | CeleryWorkflow]] = {
    "CeleryApp": CeleryApp,
    "CeleryWorkerPool": CeleryWorkerPool,
    "CeleryWorkflow": CeleryWorkflow,
}

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
"""What Kubernetes allows as a name."""

METADATA = (
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)
"""Fields of ``metav1.ObjectMeta``."""

MOST_PROBLEMS = 10
"""As many are told at once; a manifest with more has one mistake at its root."""


class InvalidResource(ValueError):  # noqa: N818 - what it is about, as with the API's own Invalid
    """A manifest that the API server, or the operator after it, would refuse.

    ``path`` and ``message`` are those of the first problem; ``problems`` has all, up to ten.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems
        self.path, self.message = problems[0]


def validate_resource(manifest: Mapping[str, Any]) -> CeleryApp | CeleryWorkerPool | CeleryWorkflow:
    """Return a manifest's spec and status as a model if ``kubectl apply`` would take it and the operator its shape.

    A manifest is JSON: dicts, lists, strings, numbers, booleans, None. Whether what it names exists is not looked at.
    Raises InvalidResource.
    """
    model = _model(manifest)
    schema = resource_schema(model, complete=True)
    spec_and_metadata = {key: value for key, value in manifest.items() if key != "status"}
    _refuse(check_unknown_fields(spec_and_metadata, schema, ""))
    complete = with_defaults(spec_and_metadata, schema)
    _refuse(check_values(complete, schema, ""))
    _refuse(_check_metadata(complete["metadata"]))
    _refuse(check_rules(complete, schema, ""))
    try:
        return model.model_validate({"spec": complete["spec"], "status": manifest.get("status")})
    except ValidationError as error:
        raise InvalidResource(tuple(_from_pydantic(error))) from error


def validate_hidden(manifest: Mapping[str, Any]) -> None:
    """Check what the API server let pass unseen: what nests deeper than the CRD describes. Much cheaper than all.

    For a manifest that comes from the API server. Raises InvalidResource.
    """
    model = _model(manifest)
    _refuse(check_hidden(manifest, resource_schema(model), resource_schema(model, complete=True), ""))


def _refuse(problems: Iterator[Problem]) -> None:
    """Raise if there are any."""
    found = tuple(problem for _, problem in zip(range(MOST_PROBLEMS), problems, strict=False))
    if found:
        raise InvalidResource(found)


def _model(manifest: Mapping[str, Any]) -> type[CeleryApp | CeleryWorkerPool | CeleryWorkflow]:
    kind, version = manifest.get("kind"), manifest.get("apiVersion")
    if not isinstance(kind, str) or kind not in MODELS:
        close = difflib.get_close_matches(str(kind), MODELS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(MODELS)}"
        raise InvalidResource((Problem("kind", f"unknown kind {kind!r}; {hint}"),))
    if version != API_VERSION:
        raise InvalidResource((Problem("apiVersion", f"must be {API_VERSION}, not {version!r}"),))
    return MODELS[kind]


def _check_metadata(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what Kubernetes itself refuses in metadata, as far as a person can get it wrong."""
    yield from check_unknown_fields(metadata, {"properties": {key: {} for key in METADATA}}, "metadata")
    for key in ("name", "namespace"):
        value = metadata.get(key)
        if value is None and key == "namespace":
            continue
        if not isinstance(value, str) or not value:
            yield Problem(f"metadata.{key}", "is required and must be a string")
        elif not SUBDOMAIN.fullmatch(value):
            yield Problem(f"metadata.{key}", f"{value!r} must be lower-case letters, digits, '-' and '.'")
        elif key == "name" and len(value) > MAX_NAME_LENGTH:
            yield Problem("metadata.name", NAME_RULE["message"])
    for key in ("labels", "annotations"):
        for name, value in (metadata.get(key) or {}).items():
            if not isinstance(value, str):
                yield Problem(f"metadata.{key}.{name}", "must be a string: quote it")


def _from_pydantic(error: ValidationError) -> Iterator[Problem]:
    """Yield what the model refuses although the schema does not."""
    for detail in error.errors(include_url=False, include_input=False)[:MOST_PROBLEMS]:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"])
        yield Problem(path.removeprefix("."), detail["msg"])
