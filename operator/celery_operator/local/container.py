"""What a pod's container is on this machine: a command, an environment, and directories in place of its volumes.

A process has no mount namespace of its own here: a volume becomes a directory, and where the command or the environment
names a path below its mount point, the directory's path stands instead.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery_operator.local.hosts import HostMap
from celery_operator.services.ports import Manifest, ObjectKey
from celery_patterns.protocol import ENV_AGENT_HOST

WORKER_CONTAINER = "worker"
DEFAULT_GRACE_SECONDS = 30
"""Kubernetes' own default."""
_VARIABLE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_FIELD_MAP = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")

Lookup = Callable[[str, ObjectKey], Manifest | None]
"""Kind and key to object."""


class LaunchError(Exception):
    """The container cannot be started here as it is described. ``reason`` is the kubelet's word for it."""

    def __init__(self, message: str, reason: str = "CreateContainerConfigError") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Launch:
    """All that is needed to start a container, to see whether it is ready, and to end it."""

    command: tuple[str, ...]
    env: dict[str, str]
    startup: str | None
    """URL that answers 200 once it has started; None: as soon as it runs."""
    readiness: str | None
    """URL that answers 200 while ready; None: ready once started."""
    pre_stop: Mapping[str, Any] | None
    """The hook as in the manifest, an exec command already resolved."""
    grace_seconds: float


def prepare(pod: Manifest, lookup: Lookup, directory: Path, hosts: HostMap, entrypoint: tuple[str, ...]) -> Launch:
    """Resolve the pod's worker container; writes its volumes below ``directory``. Raises LaunchError.

    ``entrypoint`` is the image's, for a container that brings only arguments.
    """
    spec = pod["spec"]
    container = next((c for c in spec["containers"] if c["name"] == WORKER_CONTAINER), None)
    if container is None:
        raise LaunchError(f"no container is called {WORKER_CONTAINER}")
    sources = _Sources(pod, lookup)
    mounts = _mount(spec.get("volumes", []), container.get("volumeMounts", []), sources, directory)
    given = _environment(container, sources)
    given = {name: hosts.rewrite(_move(value, mounts)) for name, value in given.items()}
    env = {**_inherited(), **given}
    env[ENV_AGENT_HOST] = pod["status"]["podIP"]  # every pod has a loopback address of its own
    env["HOSTNAME"] = pod["metadata"]["name"]

    def local(argument: str) -> str:
        # %h is Celery's word for the host's name, which in a pod is the pod's.
        return _move(_expand(argument, given), mounts).replace("%h", pod["metadata"]["name"])

    command = tuple(local(part) for part in (container.get("command") or entrypoint))
    arguments = tuple(local(part) for part in container.get("args", ()))

    def url(probe: str) -> str | None:
        get = container.get(probe, {}).get("httpGet")
        return None if get is None else probe_url(pod, container, get)

    return Launch(
        command=(*command, *arguments),
        env=env,
        startup=url("startupProbe"),
        readiness=url("readinessProbe"),
        pre_stop=_pre_stop(container, local),
        grace_seconds=float(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)),
    )


def probe_url(pod: Manifest, container: Mapping[str, Any], get: Mapping[str, Any]) -> str:
    """Return the URL of an ``httpGet`` of a probe or hook. Raises LaunchError if its port has no such name."""
    port = get["port"]
    if isinstance(port, str):
        named = {p.get("name"): p["containerPort"] for p in container.get("ports", [])}
        if port not in named:
            raise LaunchError(f"the container has no port called {port}")
        port = named[port]
    return f"http://{pod['status']['podIP']}:{port}{get.get('path', '/')}"


def ports_of(pod_spec: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ports that the worker container listens on."""
    return tuple(
        port["containerPort"]
        for container in pod_spec["containers"]
        if container["name"] == WORKER_CONTAINER
        for port in container.get("ports", [])
    )


def _pre_stop(container: Mapping[str, Any], local: Callable[[str], str]) -> Mapping[str, Any] | None:
    hook: Mapping[str, Any] | None = container.get("lifecycle", {}).get("preStop")
    if hook and "exec" in hook:
        return {"exec": {"command": [local(part) for part in hook["exec"]["command"]]}}
    return hook


def _inherited() -> dict[str, str]:
    """Return this process' environment without Celery's own variables, its interpreter's programs first."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["PYTHONUNBUFFERED"] = "1"
    return env


class _Sources:
    """Where values of the pod's environment and volumes come from."""

    def __init__(self, pod: Manifest, lookup: Lookup) -> None:
        self._pod = pod
        self._lookup = lookup

    def data(self, kind: str, name: str, *, optional: bool) -> dict[str, bytes]:
        """Return the keys of a Secret or ConfigMap. Raises LaunchError."""
        namespace = self._pod["metadata"]["namespace"]
        found = self._lookup(kind, ObjectKey(namespace, name))
        if found is None:
            if optional:
                return {}
            raise LaunchError(f'{kind.lower()} "{name}" not found')
        return data_of(found)

    def value(self, variable: Mapping[str, Any]) -> str | None:
        """Return the value of ``valueFrom``; None if it is optional and missing."""
        source = variable["valueFrom"]
        for word, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if word in source:
                ref = source[word]
                optional = bool(ref.get("optional", False))
                data = self.data(kind, ref["name"], optional=optional)
                if ref["key"] not in data and not optional:
                    raise LaunchError(f"couldn't find key {ref['key']} in {kind} {ref['name']}")
                return _text(data[ref["key"]], kind, ref["name"], ref["key"]) if ref["key"] in data else None
        if "fieldRef" in source:
            return self.field(source["fieldRef"]["fieldPath"])
        raise LaunchError(f"local mode cannot set {variable['name']} from {', '.join(source)}")

    def field(self, path: str) -> str:
        """Return a field of the pod, as the downward API would."""
        pod = self._pod
        found = _FIELD_MAP.match(path)
        if found:
            return str(pod["metadata"].get(found[1], {}).get(found[2], ""))
        fields = {
            "metadata.name": pod["metadata"]["name"],
            "metadata.namespace": pod["metadata"]["namespace"],
            "metadata.uid": pod["metadata"]["uid"],
            "spec.nodeName": "local",
            "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
            "status.podIP": pod["status"]["podIP"],
            "status.hostIP": "127.0.0.1",
        }
        if path not in fields:
            raise LaunchError(f"local mode does not know the field {path}")
        return str(fields[path])


def _text(value: bytes, kind: str, name: str, key: str) -> str:
    """Return what a variable can hold."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise LaunchError(f"key {key} of {kind} {name} is no text and cannot be a variable: mount it") from None


def data_of(manifest: Manifest) -> dict[str, bytes]:
    """Return the keys and values of a Secret or ConfigMap, decoded."""
    data = manifest.get("data") or {}
    if manifest["kind"] == "Secret":
        return {k: base64.b64decode(v) for k, v in data.items()}
    return {k: str(v).encode() for k, v in data.items()}


def _environment(container: Mapping[str, Any], sources: _Sources) -> dict[str, str]:
    env: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for word, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if word in source:
                name, prefix = source[word]["name"], source.get("prefix", "")
                data = sources.data(kind, name, optional=bool(source[word].get("optional", False)))
                env |= {prefix + key: _text(value, kind, name, key) for key, value in data.items()}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            value = sources.value(variable)
            if value is not None:
                env[variable["name"]] = value
        else:
            env[variable["name"]] = _expand(variable.get("value", ""), env)
    return env


def _expand(text: str, env: Mapping[str, str]) -> str:
    """Expand ``$(NAME)`` as the kubelet does: what is not known stays as it is, ``$$`` is a dollar sign."""
    return _VARIABLE.sub(lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]), text)


def _mount(
    volumes: list[Mapping[str, Any]], mounts: list[Mapping[str, Any]], sources: _Sources, directory: Path
) -> dict[str, str]:
    """Make the volumes that the container mounts; return mount path -> path here, the longest mount path first."""
    by_name = {volume["name"]: volume for volume in volumes}
    here: dict[str, str] = {}
    for mount in mounts:
        volume = by_name.get(mount["name"])
        if volume is None:
            raise LaunchError(f"no volume is called {mount['name']}")
        path = directory / "volumes" / mount["name"]
        path.mkdir(parents=True, exist_ok=True)
        _fill(volume, path, sources)
        here[mount["mountPath"].rstrip("/")] = str(path / mount.get("subPath", ""))
    return dict(sorted(here.items(), key=lambda pair: -len(pair[0])))


def _fill(volume: Mapping[str, Any], path: Path, sources: _Sources) -> None:
    if "emptyDir" in volume:
        return
    if "secret" in volume:
        kind, source, name = "Secret", volume["secret"], volume["secret"]["secretName"]
    elif "configMap" in volume:
        kind, source, name = "ConfigMap", volume["configMap"], volume["configMap"]["name"]
    else:
        kinds = ", ".join(sorted(set(volume) - {"name"}))
        raise LaunchError(f"volume {volume['name']}: local mode has emptyDir, secret and configMap, not {kinds}")
    data = sources.data(kind, name, optional=bool(source.get("optional", False)))
    items = {item["key"]: item["path"] for item in source.get("items", [])} or {key: key for key in data}
    for key, place in items.items():
        if key not in data:
            raise LaunchError(f"couldn't find key {key} in {kind} {name}")
        target = path / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(data[key])


def _move(text: str, mounts: Mapping[str, str]) -> str:
    """Return the text with a path below a mount point moved to where the volume is."""
    for mount_path, here in mounts.items():
        if text == mount_path or text.startswith(mount_path + "/"):
            return here + text[len(mount_path) :]
    return text
