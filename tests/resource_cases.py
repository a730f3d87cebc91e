"""Manifests and what has to become of them: one table for local validation and for a real API server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Manifest = dict[str, Any]

API_VERSION = "celery-operator.dev/v1alpha1"
APP = {"connection": {"broker": {"url": "redis://redis:6379/0"}, "resultBackend": {"url": "redis://redis:6379/1"}}}
ADD = {"name": "tasks.add", "args": [{"value": 4}, {"value": 4}]}


def workflow(spec: Manifest, name: str = "case") -> Manifest:
    """A CeleryWorkflow with an inline app."""
    return {
        "apiVersion": API_VERSION,
        "kind": "CeleryWorkflow",
        "metadata": {"name": name},
        "spec": {"app": APP, **spec},
    }


def pool(spec: Manifest, name: str = "case") -> Manifest:
    """A CeleryWorkerPool with an inline app."""
    return {
        "apiVersion": API_VERSION,
        "kind": "CeleryWorkerPool",
        "metadata": {"name": name},
        "spec": {"app": APP, **spec},
    }


def app(broker: Manifest) -> Manifest:
    """A CeleryApp with this broker."""
    return {
        "apiVersion": API_VERSION,
        "kind": "CeleryApp",
        "metadata": {"name": "case"},
        "spec": {"connection": {"broker": broker}},
    }


@dataclass(frozen=True, slots=True)
class Case:
    """A manifest, and the problem that has to be named; no path: it is right."""

    name: str
    manifest: Manifest
    path: str = ""
    message: str = ""
    """A part of what local validation says."""
    refused_by: Literal["server", "operator", "none"] = "none"
    """Who sees it first on a cluster. What nests deeper than the CRD describes, only the operator sees."""
    server_says: str = ""
    """A part of what the API server says, where that differs from ``message``."""


def wrong(name: str, manifest: Manifest, path: str, message: str, server_says: str = "") -> Case:
    """A case that the API server refuses."""
    return Case(name, manifest, path, message, "server", server_says or message)


def wrong_deep_down(name: str, manifest: Manifest, path: str, message: str) -> Case:
    """A case that the API server cannot see."""
    return Case(name, manifest, path, message, "operator")


GOOD = (
    Case("a chain of one task", workflow({"chain": [{"task": ADD}]})),
    Case("null for an optional field", workflow({"chain": [{"name": None, "task": ADD}]})),
    Case("null as a value", workflow({"group": [{"task": {"name": "t", "args": [{"value": None}]}}]})),
    Case("a group in a chain", workflow({"chain": [{"group": [{"task": ADD}, {"task": ADD}]}, {"task": ADD}]})),
    Case("a chord over items", workflow({"chord": {"items": {"list": [1, "a"]}, "task": ADD, "body": ADD}})),
    Case(
        "a map-reduce over a range",
        workflow({"mapReduce": {"items": {"range": {"end": 3}}, "map": ADD, "reduce": ADD}}),
    ),
    Case(
        "a dag",
        workflow(
            {
                "dag": {
                    "steps": [
                        {"name": "a", "task": ADD},
                        {"name": "b", "dependsOn": [{"step": "a"}], "reduce": {"from": "a", "task": ADD}},
                    ]
                }
            }
        ),
    ),
    Case("the longest name", workflow({"chain": [{"task": ADD}]}, name="n" * 47)),
    Case("a pool with nothing but its app", pool({})),
    Case(
        "an autoscaled pool",
        pool({"autoscaling": {"maxReplicas": 3}, "template": {"metadata": {"labels": {"a": "b"}}}}),
    ),
    Case("an app with its URL in a Secret", app({"urlFrom": {"secretKeyRef": {"name": "s", "key": "broker"}}})),
)

BAD = (
    wrong(
        "an unknown field",
        workflow({"chian": [{"task": ADD}]}),
        "spec.chian",
        "unknown field; did you mean chain?",
        'unknown field "spec.chian"',
    ),
    wrong(
        "an unknown kind of step",
        workflow({"dag": {"steps": [{"name": "a", "shell": {}}]}}),
        "spec.dag.steps[0].shell",
        "unknown field; known here: ",
        'unknown field "spec.dag.steps[0].shell"',
    ),
    wrong(
        "an unknown field of a task",
        workflow({"chain": [{"task": {**ADD, "timeLimit": 3}}]}),
        "spec.chain[0].task.timeLimit",
        "unknown field; did you mean timeLimitSeconds?",
        'unknown field "spec.chain[0].task.timeLimit"',
    ),
    wrong(
        "two kinds of work",
        workflow({"chain": [{"task": ADD}], "group": [{"task": ADD}]}),
        "spec",
        "set exactly one of chain, group, chord, mapReduce and dag",
    ),
    wrong("no work", workflow({}), "spec", "set exactly one of chain, group, chord, mapReduce and dag"),
    wrong(
        "a dependency that does not exist",
        workflow({"dag": {"steps": [{"name": "a", "task": ADD, "dependsOn": [{"step": "b"}]}]}}),
        "spec.dag",
        "dependsOn names a step that does not exist",
    ),
    wrong(
        "two steps of one name",
        workflow({"dag": {"steps": [{"name": "a", "task": ADD}, {"name": "a", "task": ADD}]}}),
        "spec.dag.steps[1]",
        "name a is there already",
        "Duplicate value",
    ),
    wrong(
        "a step that is two things",
        workflow({"dag": {"steps": [{"name": "a", "task": ADD, "map": {"items": {"list": []}, "task": ADD}}]}}),
        "spec.dag.steps[0]",
        "set exactly one of task, map and reduce",
    ),
    wrong(
        "a boolean for a name, as YAML reads y",
        workflow({"dag": {"steps": [{"name": True, "task": ADD}]}}),
        "spec.dag.steps[0].name",
        "must be of type string, not boolean (YAML reads an unquoted y",
        "must be of type string",
    ),
    wrong(
        "a value beside a reference",
        workflow({"chain": [{"task": {"name": "t", "args": [{"value": 1, "valueFrom": {"parameter": "p"}}]}}]}),
        "spec.chain[0].task.args[0]",
        "must set exactly 1 of value, valueFrom, not 2",
        "at most 1",
    ),
    wrong(
        "an argument of nothing",
        workflow({"chain": [{"task": {"name": "t", "args": [{}]}}]}),
        "spec.chain[0].task.args[0]",
        "must set exactly 1 of value, valueFrom, not 0",
        "at least 1",
    ),
    wrong(
        "a keyword twice",
        workflow(
            {"chain": [{"task": {"name": "t", "kwargs": [{"name": "x", "value": 1}, {"name": "x", "value": 2}]}}]}
        ),
        "spec.chain[0].task.kwargs[1]",
        "name x is there already",
        "Duplicate value",
    ),
    wrong(
        "a soft limit above the hard one",
        workflow({"chain": [{"task": {"name": "t", "softTimeLimitSeconds": 9, "timeLimitSeconds": 9}}]}),
        "spec.chain[0].task",
        "softTimeLimitSeconds must be less than timeLimitSeconds",
    ),
    wrong(
        "an unknown failure policy",
        workflow({"chain": [{"task": ADD}], "runPolicy": {"failurePolicy": "Ignore"}}),
        "spec.runPolicy.failurePolicy",
        "unsupported value 'Ignore'; supported: FailFast, Continue",
        'supported values: "FailFast", "Continue"',
    ),
    wrong(
        "an empty group",
        workflow({"group": []}),
        "spec.group",
        "must have at least 1 items",
        "should have at least 1 items",
    ),
    wrong(
        "a range that does not move",
        workflow({"mapReduce": {"items": {"range": {"end": 3, "step": 0}}, "map": ADD, "reduce": ADD}}),
        "spec.mapReduce.items.range",
        "step must not be 0",
    ),
    wrong(
        "items from nowhere",
        workflow({"mapReduce": {"items": {}, "map": ADD, "reduce": ADD}}),
        "spec.mapReduce.items",
        "must set exactly 1 of list, range, resultOf, not 0",
        "at least 1",
    ),
    wrong(
        "a path that is none",
        workflow({"chain": [{"task": ADD}], "outputs": [{"name": "o", "valueFrom": {"result": "files"}}]}),
        "spec.outputs[0].valueFrom.result",
        "'files' must match ^\\$",
        "should match",
    ),
    wrong(
        "a task without a name",
        workflow({"chain": [{"task": {"queue": "q"}}]}),
        "spec.chain[0].task.name",
        "is required",
        "Required value",
    ),
    wrong(
        "a name that is too long",
        workflow({"chain": [{"task": ADD}]}, name="n" * 48),
        "metadata.name",
        "metadata.name must have at most 47 characters",
    ),
    wrong(
        "minReplicas above maxReplicas",
        pool({"autoscaling": {"minReplicas": 4, "maxReplicas": 3}}),
        "spec.autoscaling",
        "minReplicas must not be greater than maxReplicas",
    ),
    wrong(
        "replicas beside autoscaling",
        pool({"replicas": 1, "autoscaling": {"maxReplicas": 3}}),
        "spec",
        "replicas cannot be set beside autoscaling: change autoscaling.minReplicas and maxReplicas",
    ),
    wrong(
        "a number as text",
        pool({"replicas": "3"}),
        "spec.replicas",
        "must be of type integer, not string",
        "must be of type integer",
    ),
    wrong(
        "a queue with a comma",
        pool({"queues": [{"name": "a,b"}]}),
        "spec.queues[0].name",
        "'a,b' must match",
        "should match",
    ),
    wrong("a template that is a text", pool({"template": "x"}), "spec.template", "must be of type object", ""),
    wrong(
        "an app and a reference to one", pool({"appRef": {"name": "a"}}), "spec", "set exactly one of appRef and app"
    ),
    wrong(
        "a password in a URL",
        app({"url": "redis://:hunter2@redis:6379/0"}),
        "spec.connection.broker",
        "url must not contain a user or password",
    ),
    wrong("no URL at all", app({}), "spec.connection.broker", "set exactly one of url and urlFrom"),
    wrong(
        "a lease that is too short",
        pool({"app": {**APP, "recovery": {"leaseSeconds": 5}}}),
        "spec.app.recovery.leaseSeconds",
        "must be at least 10, not 5",
        "should be greater than or equal to 10",
    ),
    wrong(
        "more deliveries than anybody wants",
        pool({"app": {**APP, "recovery": {"maxDeliveries": 101}}}),
        "spec.app.recovery.maxDeliveries",
        "must be at most 100, not 101",
        "should be less than or equal to 100",
    ),
    wrong_deep_down(
        "an unknown field two levels down",
        workflow({"chain": [{"group": [{"tsak": ADD}]}]}),
        "spec.chain[0].group[0].tsak",
        "unknown field; did you mean task?",
    ),
    wrong_deep_down(
        "a rule broken two levels down",
        workflow({"chain": [{"chord": {"header": [{"task": ADD}], "body": {"name": "t", "args": [{}]}}}]}),
        "spec.chain[0].chord.body.args[0]",
        "must set exactly 1 of value, valueFrom, not 0",
    ),
)
