"""What the API server refuses at `kubectl apply`, in which words, and that nothing of it is kept."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from support import manifests
from support.playground import Playground

ADD = {"task": manifests.task("examples.add", 1, 2)}
STEP = {"name": "first", **ADD}


def _workflow(**spec: Any) -> dict[str, Any]:
    return {"kind": "CeleryWorkflow", "spec": {"appRef": {"name": "app"}, **spec}}


def _pool(**spec: Any) -> dict[str, Any]:
    return {"kind": "CeleryWorkerPool", "spec": {"appRef": {"name": "app"}, **spec}}


def _app(broker: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "CeleryApp", "spec": {"connection": {"broker": broker}}}


REFUSED = {
    "unknown-field": (_workflow(chian=[ADD]), 'unknown field "spec.chian"'),
    "unknown-field-of-a-task": (
        _workflow(chain=[{"task": {"name": "examples.add", "arguments": []}}]),
        'unknown field "spec.chain[0].task.arguments"',
    ),
    "unknown-kind-of-step": (_workflow(chain=[{"sleep": {"seconds": 1}}]), 'unknown field "spec.chain[0].sleep"'),
    "unknown-kind": ({"kind": "CeleryWorkflo", "spec": {}}, 'no matches for kind "CeleryWorkflo"'),
    "chain-and-group": (
        _workflow(chain=[ADD], group=[ADD]),
        "set exactly one of chain, group, chord, mapReduce and dag",
    ),
    "chord-and-dag": (
        _workflow(chord={"header": [ADD], "body": {"name": "examples.total"}}, dag={"steps": [STEP]}),
        "set exactly one of chain, group, chord, mapReduce and dag",
    ),
    "no-work": (_workflow(), "set exactly one of chain, group, chord, mapReduce and dag"),
    "element-of-two-kinds": (
        _workflow(chain=[{**ADD, "group": [ADD]}]),
        "set exactly one of task, group, chain, chord and map",
    ),
    "step-of-two-kinds": (
        _workflow(dag={"steps": [{**STEP, "reduce": {"from": "x", "task": {"name": "t"}}}]}),
        "set exactly one of task, map and reduce",
    ),
    "empty-group": (_workflow(group=[]), "spec.group in body should have at least 1 items"),
    "dependency-that-does-not-exist": (
        _workflow(dag={"steps": [{**STEP, "dependsOn": [{"step": "nowhere"}]}]}),
        "dependsOn names a step that does not exist",
    ),
    "two-steps-of-one-name": (_workflow(dag={"steps": [STEP, STEP]}), 'Duplicate value: {"name":"first"}'),
    "min-above-max": (
        _pool(autoscaling={"minReplicas": 3, "maxReplicas": 2}),
        "minReplicas must not be greater than maxReplicas",
    ),
    "replicas-beside-autoscaling": (
        _pool(replicas=1, autoscaling={"maxReplicas": 2}),
        "replicas cannot be set beside autoscaling",
    ),
    "negative-replicas": (_pool(replicas=-1), "should be greater than or equal to 0"),
    "two-apps": (
        _workflow(app={"connection": {"broker": {"url": "redis://redis"}}}, chain=[ADD]),
        "set exactly one of appRef and app",
    ),
    "two-urls": (
        _app({"url": "redis://redis", "urlFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}),
        "set exactly one of url and urlFrom",
    ),
    "step-named-like-a-yaml-boolean": (
        _workflow(dag={"steps": [{"name": True, **ADD}]}),
        'must be of type string: "boolean"',
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refused_at_apply_in_words(static_ground: Playground, case: str) -> None:
    manifest, words = REFUSED[case]
    assert words in _refusal(static_ground, manifest, case)
    assert case not in _everything(static_ground)


@pytest.mark.parametrize("kind", ["CeleryApp", "CeleryWorkerPool", "CeleryWorkflow"])
def test_a_name_may_have_47_characters_and_no_more(static_ground: Playground, kind: str) -> None:
    body = {
        "CeleryApp": _app({"url": "redis://redis.example"}),
        "CeleryWorkerPool": _pool(replicas=0),
        "CeleryWorkflow": _workflow(suspend=True, chain=[ADD]),
    }[kind]
    assert "metadata.name must have at most 47 characters" in _refusal(static_ground, body, "x" * 48)
    longest = "x" * 47
    static_ground.api.create(_complete(static_ground, body, longest))
    static_ground.delete(kind, longest)


def test_credentials_in_a_url_are_refused_without_being_shown(static_ground: Playground) -> None:
    said = _refusal(static_ground, _app({"url": "redis://user:hunter2@redis:6379/0"}), "indiscreet")
    assert "url must not contain a user or password" in said
    assert "hunter2" not in said


def test_the_work_of_a_workflow_cannot_change_but_suspend_can(static_ground: Playground) -> None:
    static_ground.create_workflow("fixed", suspend=True, chain=[ADD])
    changed = _workflow(suspend=True, chain=[ADD, ADD])
    assert "chain cannot change once the workflow exists" in _refusal(static_ground, changed, "fixed")
    turned = _workflow(suspend=True, group=[ADD])
    assert "cannot change once the workflow exists" in _refusal(static_ground, turned, "fixed")
    resumed = static_ground.patch("CeleryWorkflow", "fixed", {"spec": {"suspend": False}})
    assert resumed["spec"]["suspend"] is False
    static_ground.delete("CeleryWorkflow", "fixed")


def _refusal(ground: Playground, manifest: dict[str, Any], name: str) -> str:
    text = yaml.safe_dump(_complete(ground, manifest, name))
    ended = ground.cluster.attempt("apply", "-f", "-", stdin=text)
    assert ended.code != 0, f"it was accepted: {text}"
    return ended.said


def _complete(ground: Playground, manifest: dict[str, Any], name: str) -> dict[str, Any]:
    return {"apiVersion": manifests.API_VERSION, "metadata": {"name": name, "namespace": ground.name}, **manifest}


def _everything(ground: Playground) -> str:
    return ground.cluster.kubectl("get", "celery", "-n", ground.name, "-o", "name")
