"""What is wrong in a workflow: each mistake has its reason, its field's path and a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import SpecError
from celery_operator.domain.workflows.compile import compile_workflow
from celery_patterns.protocol import REFERENCE_KEY
from unit.domain.workflows.shorthand import t, task
from unit.domain.workflows.simulation import spec_of


def dag(*steps: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"dag": {"steps": list(steps)}, **spec}


A = {"name": "a", **t()}
B = {"name": "b", "dependsOn": [{"step": "a"}]}
OF_A = {"resultOf": {"step": "a"}}
MAP = {"map": {"items": {"list": [1]}, "task": task()}}

INVALID: list[tuple[dict[str, Any], str]] = [
    (
        {"chain": [t()], "group": [t()]},
        "spec: set exactly one of chain, group, chord, mapReduce and dag; found chain and group",
    ),
    ({}, "spec: set exactly one of chain, group, chord, mapReduce and dag; found none"),
    ({"appRef": None, "chain": [t()]}, "spec: set exactly one of appRef and app; found none"),
    ({"chain": [{}]}, "spec.chain[0]: set exactly one of task, group, chain, chord and map; found none"),
    (
        {"chain": [{**t(), **MAP}]},
        "spec.chain[0]: set exactly one of task, group, chain, chord and map; found task and map",
    ),
    (
        {"group": [{"group": [{}]}]},
        "spec.group[0].group[0]: set exactly one of task, group, chain, chord and map; found none",
    ),
    (dag({"name": "a"}), "spec.dag.steps[0]: set exactly one of task, map and reduce; found none"),
    (
        {"chord": {"header": [t()], "task": task(), "body": task()}},
        "spec.chord: set either header, or items and task; found both",
    ),
    ({"chord": {"task": task(), "body": task()}}, "spec.chord: set either header, or items and task"),
    (
        {"group": [{"map": {"items": {}, "task": task()}}]},
        "spec.group[0].map.items: set exactly one of list, range and resultOf; found none",
    ),
    (
        {"chain": [{"task": {"name": "f", "args": [{}]}}]},
        "spec.chain[0].task.args[0]: set exactly one of value and valueFrom; found none",
    ),
    (
        {"chain": [{"task": {"name": "f", "args": [{"value": None, "valueFrom": {"parameter": "p"}}]}}]},
        "spec.chain[0].task.args[0]: set exactly one of value and valueFrom; found both",
    ),
    (
        {"chain": [t("f", {"parameter": "p", "item": "$"})]},
        "spec.chain[0].task.args[0].valueFrom: "
        "set exactly one of parameter, item, resultOf and previousResult; found parameter and item",
    ),
    (
        {"chain": [t("f", {"parameter": "p"})]},
        "spec.chain[0].task.args[0].valueFrom.parameter: there is no parameter 'p' in spec.parameters",
    ),
    (
        {"chain": [t()], "parameters": [{"name": "p", "value": 1}, {"name": "p", "value": 2}]},
        "spec.parameters[1].name: the parameter 'p' is there twice: names must be unique",
    ),
    (
        {"chain": [t()], "parameters": [{"name": "p"}]},
        "spec.parameters[0]: the parameter 'p' has no value: set value (null is one)",
    ),
    (
        {"chain": [t("f", {"item": "$"})]},
        "spec.chain[0].task.args[0].valueFrom.item: there is no item here: only the task of a map has one",
    ),
    (
        {"chord": {"items": {"list": [1]}, "task": task(), "body": task("f", {"item": "$"})}},
        "spec.chord.body.args[0].valueFrom.item: there is no item here: only the task of a map has one",
    ),
    (
        {"group": [{"map": {"items": {"list": [1]}, "task": task("f", {"item": "$.*"})}}]},
        "spec.group[0].map.task.args[0].valueFrom.item: "
        "the path '$.*' cannot be read at character 2: use .name, ['name'] "
        "and [index] (wildcards, slices and filters select many values and are not served)",
    ),
    *(
        (
            work,
            f"{path}.args[0].valueFrom.previousResult: there is no element before: "
            "use it in a chain, after the first one",
        )
        for work, path in [
            ({"chain": [t("f", {"previousResult": "$"})]}, "spec.chain[0].task"),
            ({"group": [t("f", {"previousResult": "$"})]}, "spec.group[0].task"),
            (dag({"name": "a", **t("f", {"previousResult": "$"})}), "spec.dag.steps[0].task"),
            (
                {"mapReduce": {"items": {"list": []}, "map": task(), "reduce": task("f", {"previousResult": "$"})}},
                "spec.mapReduce.reduce",
            ),
        ]
    ),
    (
        {"chain": [{"group": [t()]}, t("f", {"previousResult": "$.a"})]},
        "spec.chain[1].task.args[0].valueFrom.previousResult: "
        "the result is a list of 1: begin with an index in it, as $[0]",
    ),
    (
        {"chain": [{"group": [t()]}, t("f", {"previousResult": "$[1]"})]},
        "spec.chain[1].task.args[0].valueFrom.previousResult: "
        "the result is a list of 1: begin with an index in it, as $[0]",
    ),
    (
        {"chain": [MAP, t("f", {"previousResult": "$.a"})]},
        "spec.chain[1].task.args[0].valueFrom.previousResult: "
        "the result of the map 's0' is a list: begin with an index, as $[0]",
    ),
    (
        {"chain": [{"task": {"name": "f", "kwargs": [{"name": "k", "value": 1}, {"name": "k", "value": 1}]}}]},
        "spec.chain[0].task.kwargs[1].name: the argument 'k' is there twice: names must be unique",
    ),
    (
        dag(A, A),
        "spec.dag.steps[1]: the step's name 'a' is also that of spec.dag.steps[0]: give one of them another name",
    ),
    (
        {"chain": [{"name": "s1", **t()}, t()]},
        "spec.chain[1]: the step's name 's1' is also that of spec.chain[0]: give one of them another name",
    ),
    (
        {"group": [{"name": "x", "chain": [t()]}, {"name": "x", "chain": [{"name": "y", **t()}]}]},
        "spec.group[1]: the name 'x' is that of another group, chain or chord: give it another name",
    ),
    (
        {"chain": [{"name": "x", "group": [t()]}, {"name": "x", **t()}]},
        "spec.chain[1]: the step's name 'x' is also that of a group, chain or chord: give one of them another name",
    ),
    (
        {"chain": [{"name": "n" * 62, "group": [t()]}]},
        f"spec.chain[0].group[0]: the step's name '{'n' * 62}-0' has over 63 characters: give it a shorter one",
    ),
    (
        dag(A, {**B, "dependsOn": [{"step": "a"}, {"step": "a"}], **t()}),
        "spec.dag.steps[1].dependsOn[1].step: the step 'a' is there twice: name each step once",
    ),
    (
        dag(A, {**B, "reduce": {"from": "a", "task": task()}}),
        "spec.dag.steps[1].reduce.from: the step 'a' is no map: a reduce joins the results of a map",
    ),
    (
        dag(A, {"name": "b", "dependsOn": [{"step": "a", "condition": "Failed"}], **t("f", OF_A)}),
        "spec.dag.steps[1].task.args[0].valueFrom.resultOf.step: "
        "the step 'a' has no result when dependsOn wants it to have failed",
    ),
    (
        {"chain": [t("f", timeLimitSeconds=5)], "taskDefaults": {"softTimeLimitSeconds": 5}},
        "spec.chain[0].task: softTimeLimitSeconds (5) must be less than timeLimitSeconds (5), taskDefaults included",
    ),
    (
        {"chain": [t("f", retry={"backoff": {"initialSeconds": 9, "maxSeconds": 8}})]},
        "spec.chain[0].task.retry.backoff: initialSeconds (9) must not exceed maxSeconds (8)",
    ),
    (
        {"chain": [t()], "taskDefaults": {"retry": {"backoff": {"initialSeconds": 9, "maxSeconds": 8}}}},
        "spec.taskDefaults.retry.backoff: initialSeconds (9) must not exceed maxSeconds (8)",
    ),
    (
        {"group": [{"map": {"items": {"range": {"end": 1, "step": 0}}, "task": task()}}]},
        "spec.group[0].map.items.range.step: must not be 0",
    ),
    (
        {"group": [{"map": {"items": {"range": {"end": 10**30}}, "task": task()}}]},
        f"spec.group[0].map.items.range: has {10**30} items; a map may have 1000000",
    ),
    (
        {"group": [{"map": {"items": {"range": {"end": 10**6}}, "task": task()}}] * 3},
        "spec: has 3000000 tasks; one workflow may have 2000000: split it",
    ),
    (
        {"chain": [{"group": [t()] * 251}] * 4},
        "spec: 1004 steps; a workflow may have 1000: use items for larger fan-outs",
    ),
    (
        {"chain": [t("f", "x" * 65_536)]},
        "spec.chain[0].task.args[0].value: has 65538 bytes as JSON; a literal may have 65536: let a task read it",
    ),
    (
        {"chain": [t("f", *["x" * 65_000] * 5)]},
        "spec.chain[0].task.args[4].value: with this value the literals exceed 262144 bytes: let a task read them",
    ),
    (
        {"chain": [t("f", float("nan"))]},
        "spec.chain[0].task.args[0].value: is not a JSON value: Out of range float values are not JSON compliant",
    ),
    (
        {"chain": [t("f", {1, 2})]},
        "spec.chain[0].task.args[0].value: is not a JSON value: Object of type set is not JSON serializable",
    ),
    (
        {"chain": [{"task": {"name": "f", "args": [{"value": {REFERENCE_KEY: {}}}]}}]},
        f"spec.chain[0].task.args[0].value: must not hold the key '{REFERENCE_KEY}': it marks references to results",
    ),
    (
        dag(A, outputs=[{"name": "o", "valueFrom": {"result": "$"}}]),
        "spec.outputs[0].valueFrom.result: a dag has no single result: use resultOf and name a step",
    ),
    (
        {"chain": [t()], "outputs": [{"name": "o", "valueFrom": {}}]},
        "spec.outputs[0].valueFrom: set exactly one of result and resultOf; found none",
    ),
    (
        {"chain": [t()], "outputs": [{"name": "o", "valueFrom": {"result": "$"}}] * 2},
        "spec.outputs[1].name: the output 'o' is there twice: names must be unique",
    ),
    (
        {"chain": [t()], "outputs": [{"name": "o", "valueFrom": {"result": "$.["}}]},
        "spec.outputs[0].valueFrom.result: the path '$.[' cannot be read at character 2: use .name, ['name'] "
        "and [index] (wildcards, slices and filters select many values and are not served)",
    ),
]

UNKNOWN: list[tuple[dict[str, Any], str]] = [
    (dag({**B, **t()}), "spec.dag.steps[0].dependsOn[0].step: there is no step 'a'"),
    (
        dag({"name": "extract", **t()}, {"name": "x", "dependsOn": [{"step": "extrat"}], **t()}),
        "spec.dag.steps[1].dependsOn[0].step: there is no step 'extrat' (did you mean 'extract'?)",
    ),
    (
        dag(A, {"name": "b", **t("f", OF_A)}),
        "spec.dag.steps[1].task.args[0].valueFrom.resultOf.step: the step 'a' does not run before 'b': "
        "name it in dependsOn, or use a step that runs before",
    ),
    (
        dag({"name": "a", **t("f", OF_A)}),
        "spec.dag.steps[0].task.args[0].valueFrom.resultOf.step: the step 'a' does not run before 'a': "
        "name it in dependsOn, or use a step that runs before",
    ),
    (
        {"chain": [t("f", {"resultOf": {"step": "s1"}}), t()]},
        "spec.chain[0].task.args[0].valueFrom.resultOf.step: the step 's1' does not run before 's0': "
        "name it in dependsOn, or use a step that runs before",
    ),
    (
        {"group": [t(), t("f", {"resultOf": {"step": "s0"}})]},
        "spec.group[1].task.args[0].valueFrom.resultOf.step: the step 's0' does not run before 's1': "
        "name it in dependsOn, or use a step that runs before",
    ),
    (
        {"group": [{"map": {"items": {"resultOf": {"step": "zzz"}}, "task": task()}}]},
        "spec.group[0].map.items.resultOf.step: there is no step 'zzz'",
    ),
    (
        dag({"name": "a", **MAP}, {"name": "b", "reduce": {"from": "a", "task": task()}}),
        "spec.dag.steps[1].reduce.from: the step 'a' does not run before 'b': "
        "name it in dependsOn, or use a step that runs before",
    ),
    (
        dag({"name": "b", "reduce": {"from": "zzz", "task": task()}}),
        "spec.dag.steps[0].reduce.from: there is no step 'zzz'",
    ),
    (
        {"chain": [t()], "outputs": [{"name": "o", "valueFrom": {"resultOf": {"step": "s9"}}}]},
        "spec.outputs[0].valueFrom.resultOf.step: there is no step 's9'",
    ),
]


def refusal(work: dict[str, Any]) -> SpecError:
    # The bounds of the models are the API server's; what they leave is this compiler's.
    spec = spec_of(**{"appRef": {"name": "shop"}, **work})
    with pytest.raises(SpecError) as caught:
        compile_workflow(spec)
    return caught.value


@pytest.mark.parametrize(("work", "message"), INVALID)
def test_what_is_wrong_is_refused_with_the_fields_path(work: dict[str, Any], message: str) -> None:
    error = refusal(work)
    assert (error.reason, error.message) == (Reason.INVALID_SPEC, message)


@pytest.mark.parametrize(("work", "message"), UNKNOWN)
def test_a_step_that_does_not_exist_or_run_before_is_refused(work: dict[str, Any], message: str) -> None:
    error = refusal(work)
    assert (error.reason, error.message) == (Reason.UNKNOWN_STEP, message)


@pytest.mark.parametrize(
    ("steps", "circle"),
    [
        ({"a": "a"}, "spec.dag.steps[0].dependsOn: the steps wait for each other in a circle: a -> a"),
        (
            {"x": "", "a": "c", "b": "a", "c": "b"},
            "spec.dag.steps[1].dependsOn: the steps wait for each other in a circle: a -> b -> c -> a",
        ),
    ],
)
def test_a_cycle_is_named_step_by_step(steps: dict[str, str], circle: str) -> None:
    written = [
        {"name": name, "dependsOn": [{"step": before}] if before else [], **t()} for name, before in steps.items()
    ]
    error = refusal(dag(*written))
    assert (error.reason, error.message) == (Reason.CYCLE_DETECTED, f"{circle}; remove one of these")
