"""A run's outputs: what is shown, what is fetched for it, and what stands there as a reference."""

from __future__ import annotations

from typing import Any

import pytest

from celery_operator.api.workflow import OutputReference, OutputValue
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.plan import Fetch, Observed, Plan
from celery_operator.domain.workflows.state import RunState
from unit.domain.workflows.shorthand import attempt_id, begin, mapped, t
from unit.domain.workflows.simulation import step, told


def ended(graph: Graph, state: RunState, *results: tuple[Any, ...]) -> Plan:
    """Run to the end; results are (value,) for one that is announced, () for one that is not."""
    pending = list(results)
    plan = step(graph, state)
    while plan.publish:
        outcomes = [
            told(each, size=9, **({"value": result[0]} if (result := pending.pop(0)) else {})) for each in plan.publish
        ]
        plan = step(graph, plan.state, *outcomes)
    return plan


OUTPUT = {"name": "o", "valueFrom": {"result": "$"}}


def test_outputs_are_fetched_at_the_end_if_they_are_not_known() -> None:
    graph, state = begin(group=[t("a"), mapped({"list": [1, 2]})], outputs=[OUTPUT])
    plan = ended(graph, state, (), (), ())
    fetch = (Fetch("s0", (attempt_id("s0"),)), Fetch("s1", (attempt_id("s1"), attempt_id("s1", 1)), many=True))
    assert plan == Plan(plan.state, fetch=fetch)
    plan = step(graph, plan.state, observed=Observed(values={"s0": {"k": 1}, "s1": [3, None]}))
    assert plan.finished is not None
    assert plan.finished.outputs == (OutputValue(name="o", value=[{"k": 1}, [3, None]]),)


def test_outputs_that_do_not_fit_together_become_references() -> None:
    outputs = [
        {"name": name, "valueFrom": {"resultOf": {"step": each}}}
        for name, each in (("x", "s0"), ("y", "s1"), ("z", "s2"))
    ] + [OUTPUT]
    graph, state = begin(group=[t("a"), t("b"), mapped({"range": {"end": 3}})], outputs=outputs)
    plan = ended(graph, state, ("x" * 3000,), ("y" * 3000,), (), (), ())
    plan = step(graph, plan.state, observed=Observed(values={"s2": ["z" * 1000] * 3}))
    assert plan.finished is not None
    assert plan.finished.outputs == (
        OutputValue(name="x", value="x" * 3000),
        OutputValue(name="y", reference=OutputReference(step="s1", task_id=attempt_id("s1"))),
        OutputValue(name="z", reference=OutputReference(step="s2")),
        OutputValue(name="o", reference=OutputReference(step="s0,s1,s2")),
    )


def test_large_results_are_not_fetched_to_be_shown_but_searched_for_what_a_path_selects() -> None:
    outputs = [OUTPUT, {"name": "part", "valueFrom": {"result": "$.part"}}]
    graph, state = begin(chain=[t("a")], outputs=outputs)
    plan = step(graph, state)
    huge = step(graph, plan.state, told(plan.publish[0], size=50_000_000))
    place = OutputReference(step="s0", task_id=attempt_id("s0"))
    assert huge.finished is not None
    assert huge.finished.outputs == (OutputValue(name="o", reference=place), OutputValue(name="part", reference=place))
    large = step(graph, plan.state, told(plan.publish[0], size=50_000))
    assert large.fetch == (Fetch("s0", (attempt_id("s0"),)),)


@pytest.mark.parametrize(
    ("observed", "problem"),
    [
        (Observed(unreadable={"s0": "it has expired"}), "ResultUnavailable"),
        (Observed(values={"s0": {"n": float("nan")}}), "Out of range float values are not JSON compliant"),
        (Observed(values={"s0": {"n": "\ud800"}}), "surrogates not allowed"),
        (Observed(values={"s0": 5}), "the path '$.n' selects nothing"),
    ],
)
def test_an_output_that_cannot_be_shown_is_named_and_fails_nothing(observed: Observed, problem: str) -> None:
    graph, state = begin(chain=[t("a")], outputs=[{"name": "o", "valueFrom": {"result": "$.n"}}])
    plan = ended(graph, state, ())
    plan = step(graph, plan.state, observed=observed)
    assert plan.finished is not None
    assert plan.finished.succeeded
    assert plan.finished.outputs == ()
    assert plan.finished.message.startswith("1 task succeeded; output 'o': ")
    assert problem in plan.finished.message or "cannot be read" in plan.finished.message
