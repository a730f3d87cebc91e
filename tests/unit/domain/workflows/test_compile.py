"""What each kind of workflow compiles to, and that a graph can be kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celery_operator.api.task import Backoff, Retry
from celery_operator.domain.workflows.graph import (
    After,
    Call,
    Graph,
    GraphOutput,
    ItemList,
    ItemRange,
    ItemsOf,
    ItemValue,
    LiteralValue,
    Node,
    ParameterValue,
    ResultList,
    StepResult,
)
from unit.domain.workflows.shorthand import t, task
from unit.domain.workflows.simulation import graph_of


def node(name: str, call: str, *args: Any, after: tuple[Any, ...] = ()) -> Node:
    afters = tuple(each if isinstance(each, After) else After(each) for each in after)
    return Node(name, "Task", Call(call, tuple(args)), afters)


R = StepResult

GRAPHS: list[tuple[str, dict[str, Any], Graph]] = [
    (
        "a chain passes each result on, before the arguments",
        {"chain": [t("add", 4, 4), t("add", 1), t("log", immutable=True)]},
        Graph(
            (
                node("s0", "add", LiteralValue(4), LiteralValue(4)),
                node("s1", "add", R("s0"), LiteralValue(1), after=("s0",)),
                node("s2", "log", after=("s1",)),
            )
        ),
    ),
    (
        "a task that names previousResult gets it only there, with its path",
        {"chain": [t("load"), t("save", 1, {"previousResult": "$.rows"})]},
        Graph((node("s0", "load"), node("s1", "save", LiteralValue(1), R("s0", "$.rows"), after=("s0",)))),
    ),
    (
        "what follows a group waits for all members and gets their results in order; each member gets the previous one",
        {
            "chain": [t("a"), {"group": [t("b"), {"name": "mine", "task": task("c")}]}, t("d")],
            "outputs": [{"name": "x", "valueFrom": {"result": "$.k"}}],
        },
        Graph(
            (
                node("s0", "a"),
                node("s1-0", "b", R("s0"), after=("s0",)),
                node("mine", "c", R("s0"), after=("s0",)),
                node("s2", "d", ResultList((R("s1-0"), R("mine"))), after=("s1-0", "mine")),
            ),
            outputs=(GraphOutput("x", R("s2", "$.k")),),
        ),
    ),
    (
        "an index into a group's list is the member; a group of one is a list of one",
        {"chain": [{"group": [t("a")]}, t("b", {"previousResult": "$[0].x"}), {"group": [t("c")]}, t("d")]},
        Graph(
            (
                node("s0-0", "a"),
                node("s1", "b", R("s0-0", "$.x"), after=("s0-0",)),
                node("s2-0", "c", R("s1"), after=("s1",)),
                node("s3", "d", ResultList((R("s2-0"),)), after=("s2-0",)),
            )
        ),
    ),
    (
        "a chain inside a group has no barrier with its siblings",
        {
            "group": [{"chain": [t("a"), t("b")]}, {"name": "pair", "chain": [t("c"), t("d")]}],
            "outputs": [{"name": "all", "valueFrom": {"result": "$"}}],
        },
        Graph(
            (
                node("s0-0", "a"),
                node("s0-1", "b", R("s0-0"), after=("s0-0",)),
                node("pair-0", "c"),
                node("pair-1", "d", R("pair-0"), after=("pair-0",)),
            ),
            outputs=(GraphOutput("all", ResultList((R("s0-1"), R("pair-1")))),),
        ),
    ),
    (
        "a chord's body gets the list of its header",
        {"chord": {"header": [t("a"), {"chain": [t("b"), t("c")]}], "body": task("sum", 9)}},
        Graph(
            (
                node("header-0", "a"),
                node("header-1-0", "b"),
                node("header-1-1", "c", R("header-1-0"), after=("header-1-0",)),
                node(
                    "body",
                    "sum",
                    ResultList((R("header-0"), R("header-1-1"))),
                    LiteralValue(9),
                    after=("header-0", "header-1-1"),
                ),
            )
        ),
    ),
    (
        "a chord over items is a map, and its body gets the map's list",
        {"chord": {"items": {"list": [1, None]}, "task": task("a"), "body": task("sum")}},
        Graph(
            (
                Node("header", "Map", Call("a", (ItemValue(),)), items=ItemList((1, None))),
                node("body", "sum", R("header"), after=("header",)),
            )
        ),
    ),
    (
        "a chord inside a chain has its names from its place",
        {"chain": [t("a"), {"chord": {"header": [t("b")], "body": task("c")}}, t("d")]},
        Graph(
            (
                node("s0", "a"),
                node("s1-header-0", "b", R("s0"), after=("s0",)),
                node("s1-body", "c", ResultList((R("s1-header-0"),)), after=("s1-header-0",)),
                node("s2", "d", R("s1-body"), after=("s1-body",)),
            )
        ),
    ),
    (
        "a map in a chain gives its items, not the previous result; items may be a group's list",
        {
            "chain": [
                {"name": "parts", "group": [t("a"), t("b")]},
                {
                    "map": {
                        "items": {"resultOf": {"step": "parts"}},
                        "task": task("c"),
                        "parallelism": 3,
                        "maxFailed": 1,
                    }
                },
                t("d", {"previousResult": "$[-1].k"}),
            ]
        },
        Graph(
            (
                node("parts-0", "a"),
                node("parts-1", "b"),
                Node(
                    "s1",
                    "Map",
                    Call("c", (ItemValue(),)),
                    (After("parts-0"), After("parts-1")),
                    items=ItemsOf(ResultList((R("parts-0"), R("parts-1")))),
                    parallelism=3,
                    max_failed=1,
                ),
                node("s2", "d", R("s1", "$.k", -1), after=("s1",)),
            )
        ),
    ),
    (
        "mapReduce is a map and a reduce, with combine only if it is written",
        {
            "mapReduce": {
                "items": {"range": {"start": 1, "end": 9, "step": 2}},
                "map": task("m", {"item": "$"}, {"parameter": "p"}),
                "combine": task("c"),
                "reduce": task("r", 5),
                "fanIn": 2,
            },
            "parameters": [{"name": "p", "value": None}],
            "outputs": [{"name": "n", "valueFrom": {"resultOf": {"step": "map", "path": "$[0].n"}}}],
        },
        Graph(
            (
                Node("map", "Map", Call("m", (ItemValue(), ParameterValue("p"))), items=ItemRange(1, 9, 2)),
                Node(
                    "reduce",
                    "Reduce",
                    Call("r", (LiteralValue(5),)),
                    (After("map"),),
                    source="map",
                    combine=Call("c"),
                    fan_in=2,
                ),
            ),
            {"p": None},
            (GraphOutput("n", R("map", "$.n", 0)),),
        ),
    ),
    (
        "a dag is put into an order in which it can run, else as written; options come from taskDefaults",
        {
            "dag": {
                "steps": [
                    {"name": "late", "dependsOn": [{"step": "early", "condition": "Failed"}], **t("x", queue="hot")},
                    {
                        "name": "use",
                        "dependsOn": [{"step": "early"}],
                        "allowFailure": True,
                        "task": {"name": "y", "kwargs": [{"name": "k", "valueFrom": {"resultOf": {"step": "early"}}}]},
                    },
                    {"name": "early", **t("z", timeLimitSeconds=5, retry={"limit": 1})},
                ]
            },
            "taskDefaults": {"queue": "q", "timeLimitSeconds": 9, "softTimeLimitSeconds": 3, "lostAfterSeconds": 7},
        },
        Graph(
            (
                Node("early", "Task", Call("z", (), (), "q", 5, 3, 7, Retry(limit=1))),
                Node("late", "Task", Call("x", (), (), "hot", 9, 3, 7), (After("early", "Failed"),)),
                Node(
                    "use",
                    "Task",
                    Call("y", (), (("k", R("early")),), "q", 9, 3, 7),
                    (After("early"),),
                    allow_failure=True,
                ),
            )
        ),
    ),
]


@pytest.mark.parametrize(("truth", "work", "graph"), GRAPHS, ids=[truth for truth, _, _ in GRAPHS])
def test_compiles(truth: str, work: dict[str, Any], graph: Graph) -> None:
    assert graph_of(**work) == graph, truth


@pytest.mark.parametrize("graph", [graph for _, _, graph in GRAPHS])
def test_a_graph_survives_being_kept_as_json(graph: Graph) -> None:
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph


def test_a_kept_graph_keeps_its_retries_whatever_defaults_become() -> None:
    graph = graph_of(chain=[t(retry={"limit": 2, "backoff": {"initialSeconds": 0}})])
    body = graph.to_json()
    assert body["nodes"][0]["call"]["retry"] == {
        "limit": 2,
        "classes": ["Failed", "Lost", "TimedOut"],
        "backoff": {"initialSeconds": 0, "factor": 2, "maxSeconds": 300, "jitterPercent": 20},
    }
    assert Graph.from_json(body).nodes[0].call.retry == Retry(limit=2, backoff=Backoff(initial_seconds=0))


@pytest.mark.parametrize(
    "body", [None, {}, {"version": 99}, {"version": "1"}, {"version": 1}, {"version": 1, "joins": 3}]
)
def test_what_is_no_graph_of_a_known_compiler_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match="graph"):
        Graph.from_json(body)


def test_a_chain_of_wide_groups_stays_small() -> None:
    graph = graph_of(chain=[{"group": [t()] * 250}] * 4)
    assert len(json.dumps(graph.to_json())) < 200_000
    again = Graph.from_json(graph.to_json())
    assert again == graph
    assert again.nodes[250].after is again.nodes[499].after


def test_a_literal_null_is_a_value_and_values_are_plain_json() -> None:
    graph = graph_of(chain=[{"task": {"name": "f", "args": [{"value": None}, {"value": {"k": [True]}}]}}])
    assert graph.nodes[0].call.args == (LiteralValue(None), LiteralValue({"k": [True]}))
