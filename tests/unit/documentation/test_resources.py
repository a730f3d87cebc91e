"""Every YAML block of the documentation is a resource that the operator accepts, or a part of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from typer.testing import CliRunner

from celery_operator.api.app import AppSpec
from celery_operator.api.worker_pool import WorkerPoolSpec
from celery_operator.api.workflow import WorkflowSpec
from celery_operator.cli.app import app
from pages import Block, other_blocks

OURS = "celery-operator.dev/v1alpha1"
CONNECTION = {"broker": {"url": "redis://redis/0"}, "resultBackend": {"url": "redis://redis/1"}}


def names(spec: Any) -> frozenset[str]:
    """Return the fields of a spec, as users write them."""
    return frozenset(field.alias or name for name, field in spec.model_fields.items())


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": OURS, "kind": kind, "metadata": {"name": "shown"}, "spec": spec}


def completed(shown: Any) -> dict[str, Any]:
    """Return the resource that a document is, or that it is the telling part of."""
    assert isinstance(shown, dict)
    if "apiVersion" in shown:
        assert shown["apiVersion"] == OURS, "the documentation shows no other kinds"
        return shown
    if shown.keys() == {"spec"} and shown["spec"].keys() <= names(AppSpec):
        return resource("CeleryApp", {"connection": CONNECTION, **shown["spec"]})
    for kind, spec in (("CeleryWorkflow", WorkflowSpec), ("CeleryWorkerPool", WorkerPoolSpec)):
        if shown.keys() <= names(spec):
            return resource(kind, {"appRef": {"name": "shop"}, **shown})
    assert shown.keys() <= set(client.V1Container.attribute_map.values()), f"a part of what? {sorted(shown)}"
    template = {"spec": {"containers": [{"name": "beside", **shown}]}}
    return resource("CeleryWorkerPool", {"appRef": {"name": "shop"}, "template": template})


@pytest.mark.parametrize("block", other_blocks("yaml"), ids=str)
def test_what_is_shown_is_valid(block: Block, tmp_path: Path) -> None:
    shown = [each for each in yaml.safe_load_all(block.text) if each is not None]
    assert shown, f"{block} is empty"
    file = tmp_path / "shown.yaml"
    file.write_text(yaml.safe_dump_all(completed(each) for each in shown))
    said = CliRunner().invoke(app, ["validate", str(file)], env={"COLUMNS": "200", "TERM": "dumb"})
    assert said.exit_code == 0, f"{block}: {said.output}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "apiVersion: celery-operator.dev/v1alpha1\nkind: CeleryWorkerPool\nmetadata: {name: x}\nspec: {apRef: {}}",
            "apRef",
        ),
        ("chain: [{tsk: {name: a}}]", "tsk"),
        ("spec: {image: shop, application: 7}", "application"),
    ],
)
def test_what_is_wrong_is_seen(text: str, complaint: str, tmp_path: Path) -> None:
    """These checks can fail."""
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(completed(yaml.safe_load(text))))
    said = CliRunner().invoke(app, ["validate", str(file)], env={"COLUMNS": "200", "TERM": "dumb"})
    assert said.exit_code == 2
    assert complaint in said.output
