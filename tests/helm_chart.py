"""Renders the chart and reads what comes out as Kubernetes' own types."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

CHECKOUT = Path(__file__).resolve().parents[1]
CHART = CHECKOUT / "helm" / "celery-operator"
WITHIN = 60
"""Seconds for one call of helm."""

CRD = "CustomResourceDefinition"
MODELS = {
    "ClusterRole": "V1ClusterRole",
    "ClusterRoleBinding": "V1ClusterRoleBinding",
    "ConfigMap": "V1ConfigMap",
    "Deployment": "V1Deployment",
    "Pod": "V1Pod",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "Service": "V1Service",
    "ServiceAccount": "V1ServiceAccount",
}
"""Kinds that the chart renders, CRDs aside, and their models in the Kubernetes client."""


class RenderError(Exception):
    """Helm refused; the message is what it wrote."""


@dataclass(frozen=True, slots=True)
class Objects:
    """What the chart renders to."""

    manifests: tuple[dict[str, Any], ...]

    def of(self, kind: str) -> dict[str, Any]:
        """Return the objects of a kind by name, with their namespace before it if it is not the release's."""
        return {
            _key(manifest): typed(manifest) if kind in MODELS else manifest
            for manifest in self.manifests
            if manifest["kind"] == kind
        }

    def names(self) -> set[str]:
        """Return all objects as Kind/name."""
        return {f"{manifest['kind']}/{_key(manifest)}" for manifest in self.manifests}


def _key(manifest: Mapping[str, Any]) -> str:
    namespace = manifest["metadata"].get("namespace", "system")
    name: str = manifest["metadata"]["name"]
    return name if namespace == "system" else f"{namespace}/{name}"


def typed(manifest: Mapping[str, Any]) -> Any:
    """Return a manifest as the Kubernetes client's model of its kind."""
    return client.ApiClient().deserialize(json.dumps(manifest), MODELS[manifest["kind"]], "application/json")


@dataclass(frozen=True, slots=True)
class Helm:
    """A helm program."""

    program: Path

    def run(self, *arguments: str) -> str:
        """Return what a helm command prints. Raises RenderError if it fails."""
        done = subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, check=False, timeout=WITHIN, cwd=CHECKOUT
        )
        if done.returncode:
            raise RenderError(done.stderr)
        return done.stdout

    def render(self, values: Mapping[str, Any] | None = None, *, release: str = "celery") -> Objects:
        """Return what the chart renders to in the namespace ``system``. Raises RenderError."""
        flags = [f"--set-json={key}={json.dumps(value)}" for key, value in (values or {}).items()]
        text = self.run("template", release, str(CHART), "--namespace=system", *flags)
        return Objects(tuple(document for document in yaml.safe_load_all(text) if document))
