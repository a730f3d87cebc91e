"""What `kubectl` knows about the kinds once the chart is installed."""

from __future__ import annotations

import json

import pytest

from support.playground import Playground
from support.release import Release

KINDS = {
    "CeleryApp": ("celeryapps", "celapp"),
    "CeleryWorkerPool": ("celeryworkerpools", "celpool"),
    "CeleryWorkflow": ("celeryworkflows", "celwf"),
}
HEADERS = {
    "celapp": "NAME READY BROKER RESULTS AGE",
    "celpool": "NAME READY DESIRED BUSY WAITING AGE",
    "celwf": "NAME PHASE PROGRESS FAILED AGE",
}
WIDE_HEADERS = {
    "celapp": "NAME READY BROKER RESULTS AGE REASON MESSAGE",
    "celpool": "NAME READY DESIRED BUSY WAITING AGE QUEUES REASON",
    "celwf": "NAME PHASE PROGRESS FAILED AGE STARTED STEP MESSAGE",
}
LARGEST_BYTES = {"celeryapps": 60_000, "celeryworkerpools": 60_000, "celeryworkflows": 100_000}
"""The documented bounds: larger ones slow down every client that reads the API's description."""


def test_kinds_are_served_with_short_names_and_category(operator: Release) -> None:
    listed = operator.cluster.kubectl(
        "api-resources", "--api-group=celery-operator.dev", "--categories=celery", "-o=wide"
    )
    rows = [line.split() for line in listed.splitlines()[1:]]
    found = {row[4]: (row[0], row[1], row[2], row[3]) for row in rows}
    wanted = {kind: (plural, short, "celery-operator.dev/v1alpha1", "true") for kind, (plural, short) in KINDS.items()}
    assert found == wanted


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("celwf.spec.dag.steps.allowFailure", "its failure does not fail the run"),
        ("celpool.spec.autoscaling.idleTimeoutSeconds", "How long nothing may be left to do"),
        ("celapp.spec.application", "What `celery -A` gets"),
    ],
)
def test_kubectl_explain_says_what_a_field_is_for(operator: Release, path: str, words: str) -> None:
    assert words in operator.cluster.kubectl("explain", path)


def test_crds_stay_small(operator: Release) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    too_large = {}
    for plural, most in LARGEST_BYTES.items():
        stored = operator.cluster.api.request("GET", f"{path}/{plural}.celery-operator.dev")
        size = len(json.dumps({"metadata": {"name": plural}, "spec": stored["spec"]}, separators=(",", ":")))
        if size > most:
            too_large[plural] = size
    assert too_large == {}


@pytest.mark.parametrize("wide", [False, True])
def test_kubectl_get_shows_the_columns(ground: Playground, *, wide: bool) -> None:
    ground.create_pool(replicas=0)
    ground.create_workflow("work", suspend=True, chain=[{"task": {"name": "examples.add"}}])
    options = ("-o", "wide") if wide else ()
    headers = {
        short: " ".join(ground.cluster.kubectl("get", short, "-n", ground.name, *options).splitlines()[0].split())
        for short in HEADERS
    }
    assert headers == (WIDE_HEADERS if wide else HEADERS)


def test_kubectl_get_celery_shows_all_kinds(ground: Playground) -> None:
    ground.create_pool(replicas=0)
    ground.create_workflow("work", suspend=True, chain=[{"task": {"name": "examples.add"}}])
    names = ground.cluster.kubectl("get", "celery", "-n", ground.name, "-o", "name").split()
    assert sorted(names) == [
        "celeryapp.celery-operator.dev/app",
        "celeryworkerpool.celery-operator.dev/pool",
        "celeryworkflow.celery-operator.dev/work",
    ]
