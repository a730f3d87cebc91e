"""The user's pod template laid over the operator's own, and what it may not touch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools.naming import (
    ANNOTATION_DELETION_COST,
    INJECTION,
    INJECTION_MOUNT,
    OWNED_PREFIX,
    TOKEN_MOUNT,
    TOKEN_VOLUME,
    WORKER_CONTAINER,
)
from celery_patterns.protocol import (
    ENV_AGENT_ADDRESS_FILE,
    ENV_AGENT_HOST,
    ENV_AGENT_PORT,
    ENV_AGENT_TOKEN_FILE,
    ENV_POOL,
)

ENV_BROKER_URL: Final = "CELERY_BROKER_URL"
ENV_RESULT_BACKEND: Final = "CELERY_RESULT_BACKEND"
"""Celery itself prefers these two variables to what the application's code says."""

_MERGE_KEYS: Final[dict[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "hostAliases": "ip",
}
"""Lists that are merged element by element, and the field that tells elements apart; other lists are replaced."""

_NEVER_REMOVED: Final = frozenset(
    {"metadata", "spec", "labels", "annotations", "containers", "volumes"} | {*_MERGE_KEYS}
)
"""An empty ``env:`` in YAML is null too: these hold what the operator needs, so null changes nothing there."""

_OWNED_ENV: Final = frozenset(
    {ENV_BROKER_URL, ENV_RESULT_BACKEND, ENV_AGENT_PORT, ENV_AGENT_HOST, ENV_AGENT_ADDRESS_FILE, ENV_AGENT_TOKEN_FILE}
    | {ENV_POOL}
)
_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
_HANDLERS: Final = ("httpGet", "exec", "tcpSocket", "grpc")


def lay_over(template: Mapping[str, Any], overlay: Any, *, agent: bool) -> dict[str, Any]:
    """Return the pod template with the overlay merged in, as a strategic merge patch would: null removes a field.

    With the agent, probes and the preStop hook belong to the operator; their numbers may be changed. Raises
    SpecError(INVALID_SPEC) for a value of the wrong shape, SpecError(CONFLICTING_ARGUMENTS) for what is owned.
    """
    if overlay is None:
        return copy.deepcopy(dict(template))
    path = "spec.template"
    _refuse_owned(_mapping(overlay, path), path, agent=agent)
    merged = _merge(template, overlay, path)
    if not isinstance(merged, dict):  # pragma: no cover - both sides are mappings
        raise _wrong(path, "an object")
    return merged


def _merge(below: Any, above: Any, path: str) -> Any:
    if isinstance(below, Mapping):
        result = copy.deepcopy(dict(below))
        for key, value in _mapping(above, path).items():
            where = f"{path}.{key}"
            if value is None:
                if key not in _NEVER_REMOVED:
                    result.pop(key, None)
            elif key in _MERGE_KEYS:
                result[key] = _merge_list(result.get(key, []), value, _MERGE_KEYS[key], where)
            elif isinstance(value, Mapping):
                result[key] = _merge(result.get(key, {}), value, where)
            elif isinstance(result.get(key), Mapping):
                raise _wrong(where, "an object")
            else:
                result[key] = copy.deepcopy(value)
        return result
    return copy.deepcopy(above)


def _merge_list(below: list[Any], above: Any, key: str, path: str) -> list[Any]:
    result = copy.deepcopy(below)
    positions = {element[key]: index for index, element in enumerate(result)}
    for index, element in enumerate(_sequence(above, path)):
        where = f"{path}[{index}]"
        name = _mapping(element, where).get(key)
        if not isinstance(name, str | int):
            raise SpecError(Reason.INVALID_SPEC, f"{where}.{key} is missing or no name: it says which element is meant")
        if name in positions:
            result[positions[name]] = _merge(result[positions[name]], element, where)
        else:
            positions[name] = len(result)
            result.append(_merge({}, element, where))
    return result


def _refuse_owned(overlay: Mapping[str, Any], path: str, *, agent: bool) -> None:
    _allow_only(overlay, ("metadata", "spec"), path)
    metadata = _mapping(overlay.get("metadata") or {}, f"{path}.metadata")
    _allow_only(metadata, ("labels", "annotations"), f"{path}.metadata")
    for kind in ("labels", "annotations"):
        for name in _mapping(metadata.get(kind) or {}, f"{path}.metadata.{kind}"):
            if str(name).startswith(OWNED_PREFIX) or name in (ANNOTATION_DELETION_COST, "pod-template-hash"):
                raise _owned(f"{path}.metadata.{kind}[{name}]", "choose another name")
    pod = _mapping(overlay.get("spec") or {}, f"{path}.spec")
    if "terminationGracePeriodSeconds" in pod:
        raise _owned(f"{path}.spec.terminationGracePeriodSeconds", "use spec.drain.timeoutSeconds")
    if "restartPolicy" in pod:
        raise _owned(f"{path}.spec.restartPolicy", "a Deployment's pods are always restarted")
    _each(pod, "volumes", f"{path}.spec", _refuse_volume)
    _each(pod, "containers", f"{path}.spec", lambda each, where: _refuse_in_container(each, where, agent=agent))


def _refuse_volume(volume: Mapping[str, Any], path: str) -> None:
    if volume.get("name") in (TOKEN_VOLUME, INJECTION):
        raise _owned(path, "choose another name")


def _refuse_in_container(container: Mapping[str, Any], path: str, *, agent: bool) -> None:
    if container.get("name") != WORKER_CONTAINER:
        return
    for field, instead in (("command", "use spec.worker"), ("args", "use spec.worker.extraArgs")):
        if field in container:
            raise _owned(f"{path}.{field}", instead)
    _each(container, "env", path, _refuse_variable)
    _each(container, "volumeMounts", path, _refuse_mount)
    if agent:
        _refuse_agents_hooks(container, path)


def _refuse_variable(variable: Mapping[str, Any], path: str) -> None:
    if variable.get("name") in _OWNED_ENV:
        raise _owned(f"{path} ({variable['name']})", "set the connection in the CeleryApp")


def _refuse_mount(mount: Mapping[str, Any], path: str) -> None:
    path_in_container = str(mount.get("mountPath", "")).rstrip("/")
    if mount.get("name") in (TOKEN_VOLUME, INJECTION) or path_in_container in (TOKEN_MOUNT, INJECTION_MOUNT):
        raise _owned(path, "mount at another path")


def _refuse_agents_hooks(container: Mapping[str, Any], path: str) -> None:
    """The agent answers probes, and drains before the container ends: only the numbers around that are free."""
    if "preStop" in _mapping(container.get("lifecycle", {}), f"{path}.lifecycle"):
        raise _owned(f"{path}.lifecycle.preStop", "it drains the worker; use spec.drain.timeoutSeconds")
    for probe in _PROBES:
        for handler in _HANDLERS:
            if handler in _mapping(container.get(probe, {}), f"{path}.{probe}"):
                raise _owned(f"{path}.{probe}.{handler}", "the agent answers it; periods and thresholds may be changed")


def _each(parent: Mapping[str, Any], name: str, path: str, check: Callable[[Mapping[str, Any], str], None]) -> None:
    for index, element in enumerate(_sequence(parent.get(name) or [], f"{path}.{name}")):
        where = f"{path}.{name}[{index}]"
        check(_mapping(element, where), where)


def _allow_only(value: Mapping[str, Any], allowed: tuple[str, ...], path: str) -> None:
    for key in value:
        if key not in allowed:
            raise SpecError(Reason.INVALID_SPEC, f"{path}.{key}: only {' and '.join(allowed)} can be set here")


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(path, "an object")
    return value


def _sequence(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(path, "a list")
    return value


def _wrong(path: str, expected: str) -> SpecError:
    return SpecError(Reason.INVALID_SPEC, f"{path}: expected {expected}, as in a PodTemplateSpec")


def _owned(path: str, instead: str) -> SpecError:
    return SpecError(Reason.CONFLICTING_ARGUMENTS, f"{path} belongs to the operator: {instead}")
