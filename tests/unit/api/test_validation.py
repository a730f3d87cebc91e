from __future__ import annotations

from typing import Any

import pytest

from celery_operator.api.definitions import KINDS
from celery_operator.api.validation import MODELS, InvalidResource, validate_hidden, validate_resource
from celery_operator.api.workflow import CeleryWorkflow
from resource_cases import ADD, APP, BAD, GOOD, Case, app, pool, workflow


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_right_manifest_becomes_its_model(case: Case) -> None:
    assert type(validate_resource(case.manifest)).__name__ == case.manifest["kind"]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_a_wrong_manifest_is_refused_with_place_and_reason(case: Case) -> None:
    with pytest.raises(InvalidResource) as refused:
        validate_resource(case.manifest)
    assert refused.value.path == case.path
    assert case.message in refused.value.message


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_what_is_hidden_from_the_api_server_is_right_in_a_right_manifest(case: Case) -> None:
    validate_hidden(case.manifest)


@pytest.mark.parametrize("case", [case for case in BAD if case.refused_by == "operator"], ids=lambda case: case.name)
def test_what_is_hidden_from_the_api_server_is_found_all_the_same(case: Case) -> None:
    with pytest.raises(InvalidResource) as refused:
        validate_hidden(case.manifest)
    assert (refused.value.path, case.message in refused.value.message) == (case.path, True)


def test_defaults_are_those_of_the_crd_and_null_means_absent() -> None:
    found = validate_resource(workflow({"chain": [{"name": None, "task": ADD}], "runPolicy": {"parallelism": 5}}))
    assert isinstance(found, CeleryWorkflow)
    assert found.spec.run_policy.failure_policy == "FailFast"
    assert found.spec.chain is not None
    assert found.spec.chain[0].name is None


def test_a_manifest_is_not_changed() -> None:
    manifest = pool({"autoscaling": {"maxReplicas": 3}})
    validate_resource(manifest)
    assert manifest == pool({"autoscaling": {"maxReplicas": 3}})


def test_a_literal_keeps_its_nulls_and_unknown_fields() -> None:
    literal: Any = {"a": None, "unknown": [None, {"deep": True}]}
    found = validate_resource(workflow({"chain": [{"task": {"name": "t", "args": [{"value": literal}]}}]}))
    assert isinstance(found, CeleryWorkflow)
    assert found.spec.chain is not None
    assert found.spec.chain[0].task is not None
    assert found.spec.chain[0].task.args[0].value == literal


@pytest.mark.parametrize(
    ("manifest", "text"),
    [
        ({}, "kind: unknown kind None"),
        ({"kind": "CeleryWorkfow"}, "kind: unknown kind 'CeleryWorkfow'; did you mean CeleryWorkflow?"),
        ({"kind": "CeleryApp", "apiVersion": "v1"}, "apiVersion: must be celery-operator.dev/v1alpha1, not 'v1'"),
        (workflow({"chain": [{"task": ADD}]}, name="Add"), "metadata.name: 'Add' must be lower-case"),
        ({**pool({}), "metadata": {"name": "a", "lables": {}}}, "metadata.lables: unknown field; did you mean labels?"),
        ({**pool({}), "metadata": {"name": "a", "labels": {"x": 1}}}, "metadata.labels.x: must be a string"),
        ({**pool({}), "spce": {}}, "spce: unknown field; did you mean spec?"),
        ({key: value for key, value in pool({}).items() if key != "spec"}, "spec: is required"),
        ({key: value for key, value in pool({}).items() if key != "metadata"}, "metadata: is required"),
        ({**pool({}), "spec": []}, "spec: must be of type object, not array"),
    ],
)
def test_the_frame_of_a_manifest_is_checked_too(manifest: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        validate_resource(manifest)
    assert str(refused.value).startswith(text)


def test_all_problems_of_one_kind_are_told_at_once_but_no_more_than_ten() -> None:
    with pytest.raises(InvalidResource) as refused:
        validate_resource(pool({f"unknown{number}": 1 for number in range(30)}))
    assert len(refused.value.problems) == 10


def test_a_password_is_never_repeated() -> None:
    with pytest.raises(InvalidResource) as refused:
        validate_resource(app({"url": "redis://user:hunter2@redis:6379/0"}))
    assert "hunter2" not in str(refused.value)


def test_rules_about_changes_do_not_apply_to_one_manifest() -> None:
    manifest = workflow({"chain": [{"task": ADD}]})
    assert validate_resource(manifest) == validate_resource({**manifest, "status": None})


def test_a_status_is_read_into_the_model() -> None:
    found = validate_resource({**workflow({"group": [{"task": ADD}]}), "status": {"phase": "Running"}})
    assert isinstance(found, CeleryWorkflow)
    assert found.status is not None
    assert found.status.phase == "Running"


def test_every_kind_can_be_validated() -> None:
    assert {kind.name: kind.model for kind in KINDS} == MODELS


def test_ten_thousand_literals_are_no_trouble() -> None:
    items = {"list": [{"n": number} for number in range(10_000)]}
    assert validate_resource(workflow({"mapReduce": {"items": items, "map": ADD, "reduce": ADD}, "app": APP}))
