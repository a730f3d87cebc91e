"""Random workflows, run in random order with faults, against their plain meaning."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from celery_operator.api.workflow import RunPolicy
from unit.domain.workflows.reference import Meaning
from unit.domain.workflows.simulation import World, digest, graph_of, run_to_end

RETRY = {
    "limit": 2,
    "classes": ["Failed", "Lost"],
    "backoff": {"initialSeconds": 1, "factor": 3, "maxSeconds": 5, "jitterPercent": 50},
}
NUMBER = st.integers(-3, 3)


def sources(draw: st.DrawFn, before: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw a resultOf of a step that stands before."""
    step = draw(st.sampled_from(before))
    source: dict[str, Any] = {"step": step["name"]}
    if "map" in step and draw(st.booleans()):
        source["path"] = f"$[{draw(st.integers(-2, 2))}]"
    return source


def arguments(draw: st.DrawFn, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draw up to three arguments."""
    args: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["value", "parameter", "result"] if before else ["value", "parameter"]))
        if kind == "value":
            args.append({"value": draw(NUMBER)})
        elif kind == "parameter":
            args.append({"valueFrom": {"parameter": "day"}})
        else:
            args.append({"valueFrom": {"resultOf": sources(draw, before)}})
    return args


def task(draw: st.DrawFn, before: list[dict[str, Any]], *names: str) -> dict[str, Any]:
    return {"name": draw(st.sampled_from(names)), "args": arguments(draw, before)}


def items(draw: st.DrawFn, before: list[dict[str, Any]]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["list", "range", "result"] if before else ["list", "range"]))
    if kind == "list":
        return {"list": draw(st.lists(NUMBER, max_size=5))}
    if kind == "range":
        return {"range": {"start": draw(NUMBER), "end": draw(NUMBER), "step": draw(st.sampled_from([1, 2, -1]))}}
    return {"resultOf": sources(draw, before)}


@st.composite
def dags(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw up to seven steps, each of which depends on all that it may use."""
    steps: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 7))):
        before = [each for each in steps if draw(st.booleans())]
        step: dict[str, Any] = {"name": f"n{number}"}
        conditions = st.sampled_from(["Succeeded", "Succeeded", "Finished", "Failed"])
        step["dependsOn"] = [{"step": each["name"], "condition": draw(conditions)} for each in before]
        failed = {each["step"] for each in step["dependsOn"] if each["condition"] == "Failed"}
        usable = [each for each in before if each["name"] not in failed]
        maps = [each["name"] for each in usable if "map" in each]
        kind = draw(st.sampled_from(["task", "map", "reduce"] if maps else ["task", "map"]))
        if kind == "task":
            step["task"] = task(draw, usable, "digest", "listing")
        elif kind == "map":
            mapped = {"name": "digest", "args": [*arguments(draw, usable), {"valueFrom": {"item": "$"}}]}
            step["map"] = {"items": items(draw, usable), "task": mapped, "maxFailed": draw(st.integers(0, 2))}
            if draw(st.booleans()):
                step["map"]["parallelism"] = draw(st.integers(1, 3))
        else:
            step["reduce"] = {"from": draw(st.sampled_from(maps)), "task": task(draw, usable, "total")}
            if draw(st.booleans()):
                step["reduce"] |= {"combine": {"name": "total"}, "fanIn": draw(st.integers(2, 3))}
        steps.append(step)
    return steps


FAULT = st.sampled_from(["failed", "lost", "timed_out", "revoked"])
FAULTS = st.dictionaries(
    st.tuples(st.sampled_from([f"n{number}" for number in range(7)]), st.integers(0, 3)),
    st.lists(FAULT, min_size=1, max_size=4).map(tuple),
    max_size=4,
)


def graph_and_meaning(steps: list[dict[str, Any]], faults: dict[Any, Any]) -> tuple[Any, Meaning]:
    reducers = {step["name"] for step in steps if "reduce" in step}
    kept = {place: fault for place, fault in faults.items() if place[0] not in reducers or place[1] == 0}
    parameters = [{"name": "day", "value": {"of": ["month", 3]}}]
    graph = graph_of(dag={"steps": steps}, parameters=parameters, taskDefaults={"retry": RETRY})
    meaning = Meaning(kept, {"day": {"of": ["month", 3]}}, RETRY)
    meaning.evaluate(steps)
    return graph, meaning


@settings(max_examples=250, deadline=None)
@given(
    dags(),
    FAULTS,
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.fixed_dictionaries({"restarts": st.booleans(), "amnesia": st.booleans(), "noise": st.booleans()}),
)
def test_every_step_ends_as_its_meaning_says_in_whatever_order_tasks_end(
    steps: list[dict[str, Any]], faults: dict[Any, Any], seed: int, parallelism: int, weather: dict[str, bool]
) -> None:
    graph, meaning = graph_and_meaning(steps, faults)
    luck = random.Random(seed)
    policy = RunPolicy(failure_policy="Continue", parallelism=parallelism)
    world = World(graph, policy, meaning.faults, inline=lambda: luck.random() < 0.7)
    ended = run_to_end(world, luck=luck, **weather)
    assert {name: step.phase for name, step in ended.state.steps.items()} == meaning.phases
    assert ended.finish.succeeded is meaning.succeeded
    for name, value in meaning.results.items():
        assert world.result_of(ended.state, name) == value


@settings(max_examples=100, deadline=None)
@given(steps=dags(), faults=FAULTS, seed=st.integers(0, 2**32), restarts=st.booleans())
def test_fail_fast_ends_too_and_fails_if_and_only_if_a_step_failed(
    *, steps: list[dict[str, Any]], faults: dict[Any, Any], seed: int, restarts: bool
) -> None:
    graph, meaning = graph_and_meaning(steps, faults)
    luck = random.Random(seed)
    world = World(graph, RunPolicy(), meaning.faults, inline=lambda: luck.random() < 0.7)
    ended = run_to_end(world, luck=luck, restarts=restarts, noise=True)
    assert ended.finish.succeeded is meaning.succeeded
    assert all(step.active == 0 for step in ended.state.steps.values())
    if meaning.succeeded:
        assert {name: step.phase for name, step in ended.state.steps.items()} == meaning.phases
    for name, step in ended.state.steps.items():
        if step.phase == "Succeeded" and meaning.phases[name] == "Succeeded":
            assert world.result_of(ended.state, name) == meaning.results[name]


@settings(max_examples=100, deadline=None)
@given(dags(), FAULTS, st.integers(0, 2**32), st.integers(0, 2**32))
def test_the_order_and_repetition_of_outcomes_leaves_no_trace_in_the_final_state(
    steps: list[dict[str, Any]], faults: dict[Any, Any], one: int, other: int
) -> None:
    # When a call of a reduce has failed, those that it sent beside it are given up unless they have begun: which ran is
    # a matter of order.
    combining = {step["name"] for step in steps if "combine" in step.get("reduce", ())}
    faults = {place: fault for place, fault in faults.items() if place[0] not in combining}
    graph, meaning = graph_and_meaning(steps, faults)
    traces = []
    for seed, noise in ((one, False), (other, True)):
        world = World(graph, RunPolicy(failure_policy="Continue"), meaning.faults)
        ended = run_to_end(world, luck=random.Random(seed), noise=noise)
        timeless = {
            name: dataclasses.replace(step, started=None, ended=None) for name, step in ended.state.steps.items()
        }
        failures = {(each.step, each.index, each.attempt, each.exception) for each in ended.state.failures}
        published = {message.identity.task_id for message in ended.published}
        traces.append((timeless, failures, published, ended.state.values, ended.finish))
    assert traces[0] == traces[1]


# ------------------------------------------------------------------------------------------------------------- sugar

LEAF = st.one_of(
    st.builds(
        lambda value, fixed: {"task": {"name": "digest", "args": [{"value": value}], "immutable": fixed}},
        NUMBER,
        st.booleans(),
    ),
    st.builds(
        lambda values: {"map": {"items": {"list": values}, "task": {"name": "digest"}}}, st.lists(NUMBER, max_size=3)
    ),
)
LEAVES = st.lists(LEAF, min_size=1, max_size=3)
BODY = st.just({"name": "digest", "args": [{"value": 7}]})
ELEMENT = st.one_of(
    LEAF,
    LEAVES.map(lambda members: {"group": members}),
    LEAVES.map(lambda elements: {"chain": elements}),
    st.builds(lambda header, body: {"chord": {"header": header, "body": body}}, LEAVES, BODY),
)
ELEMENTS = st.lists(ELEMENT, min_size=1, max_size=4)
WORK = st.one_of(
    ELEMENTS.map(lambda elements: {"chain": elements}),
    ELEMENTS.map(lambda members: {"group": members}),
    st.builds(lambda header, body: {"chord": {"header": header, "body": body}}, ELEMENTS, BODY),
)
NOTHING = object()


def meaning_of(element: dict[str, Any], previous: Any) -> Any:
    """Return an element's result, as Celery's users know it."""
    match element:
        case {"task": task}:
            return call(task, previous)
        case {"map": {"items": {"list": values}, "task": _}}:
            return [call({"name": "digest"}, value) for value in values]
        case {"group": members}:
            return [meaning_of(member, previous) for member in members]
        case {"chain": elements}:
            for each in elements:
                previous = meaning_of(each, previous)
            return previous
        case {"chord": {"header": header, "body": body}}:
            return call(body, meaning_of({"group": header}, previous))
        case _:
            raise AssertionError(element)


def call(task: dict[str, Any], previous: Any) -> Any:
    own = [arg["value"] for arg in task.get("args", ())]
    before = [] if previous is NOTHING or task.get("immutable") else [previous]
    return digest(*before, *own)


@settings(max_examples=150, deadline=None)
@given(work=WORK, seed=st.integers(0, 2**32), restarts=st.booleans())
def test_sugar_gives_what_it_gives_in_celery(*, work: dict[str, Any], seed: int, restarts: bool) -> None:
    graph = graph_of(**work, outputs=[{"name": "all", "valueFrom": {"result": "$"}}])
    luck = random.Random(seed)
    world = World(graph, inline=lambda: luck.random() < 0.7)
    ended = run_to_end(world, luck=luck, restarts=restarts)
    assert ended.finish.succeeded
    assert [output.value for output in ended.finish.outputs] == [meaning_of(work, NOTHING)]
