"""Every kind of workflow on real workers: the right result, or the right reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.cluster import Cluster
from support.manifests import fan_out_and_total, on_item, output, task
from support.playground import Playground, condition
from support.release import Release
from support.shared_ground import ground_with_worker

RUN_SECONDS = 60.0


@pytest.fixture(scope="module")
def shared(cluster: Cluster, release: Release) -> Iterator[Playground]:
    """One namespace with four slots for all of these tests; each has a workflow of its own name."""
    with ground_with_worker(cluster, release, "workflows", slots=4) as fresh:
        yield fresh


@pytest.fixture
def workers(shared: Playground, operator: Release) -> Playground:
    """The namespace, with an operator that is ready."""
    del operator
    return shared


def _add(x: float, y: float) -> dict[str, Any]:
    return {"task": task("examples.add", x, y)}


def _times(factor: float) -> dict[str, Any]:
    return {"task": task("examples.multiply", factor)}


SQUARE = {"name": "examples.multiply", "args": [{"valueFrom": {"item": "$"}}, {"valueFrom": {"item": "$"}}]}
TOTAL = {"name": "examples.total"}
NUMBERS = {"range": {"start": 0, "end": 10}}
WORKS: dict[str, tuple[dict[str, Any], Any]] = {
    "four-plus-four": ({"chain": [_add(4, 4)]}, 8),
    "chain": ({"chain": [_add(4, 4), _times(10), _times(0.5)]}, 40.0),
    "chain-with-a-group": ({"chain": [{"group": [_add(1, 1), _add(2, 2)]}, {"task": TOTAL}, _times(3)]}, 18),
    "group": ({"group": [_add(1, 1), _add(2, 2), {"chain": [_add(3, 3), _times(7)]}]}, [2, 4, 42]),
    "group-of-one": ({"group": [_add(1, 1)]}, [2]),
    "chord": ({"chord": {"header": [_add(1, 1), _add(2, 2)], "body": TOTAL}}, 6),
    "chord-over-items": ({"chord": {"items": NUMBERS, "task": SQUARE, "body": TOTAL}}, 285),
    "map-reduce": ({"mapReduce": {"items": NUMBERS, "map": SQUARE, "reduce": TOTAL}}, 285),
    "map-reduce-in-a-tree": (
        {"mapReduce": {"items": NUMBERS, "map": SQUARE, "combine": TOTAL, "reduce": TOTAL, "fanIn": 3}},
        285,
    ),
    "map-over-nothing": ({"chain": [{"map": {"items": {"list": []}, "task": SQUARE}}, {"task": TOTAL}]}, 0),
}


@pytest.mark.parametrize("kind", WORKS)
def test_a_workflow_succeeds_with_its_result(workers: Playground, kind: str) -> None:
    work, wanted = WORKS[kind]
    workers.create_workflow(kind, **work, outputs=[output("result")])
    ended = workers.wait_ended(kind, within=RUN_SECONDS)
    found = condition(ended, "Succeeded")
    assert (found["status"], found["reason"]) == ("True", "Completed"), found
    assert workers.outputs(kind) == {"result": wanted}
    assert ended["status"]["phase"] == "Succeeded"
    total = ended["status"]["tasks"]["total"]
    assert ended["status"]["progress"] == f"{total}/{total}"
    assert condition(ended, "Reconciling")["status"] == "False"


def test_a_dag_passes_values_between_steps(workers: Playground) -> None:
    lines = [{"quantity": 3, "price": 16}, {"quantity": 1, "price": 40}, {"quantity": 2, "price": 30}]
    product = {
        "name": "examples.multiply",
        "args": [{"valueFrom": {"item": "$.quantity"}}, {"valueFrom": {"item": "$.price"}}],
    }
    steps = [
        {"name": "lines", "map": {"items": {"list": lines}, "task": product}},
        {"name": "goods", "dependsOn": [{"step": "lines"}], "reduce": {"from": "lines", "task": TOTAL}},
        {
            "name": "net",
            "dependsOn": [{"step": "goods"}],
            "task": _with("examples.add", ("goods",), {"parameter": "shipping"}),
        },
        {
            "name": "tax",
            "dependsOn": [{"step": "net"}],
            "task": _with("examples.multiply", ("net",), {"parameter": "rate"}),
        },
        {"name": "gross", "dependsOn": [{"step": "tax"}], "task": _with("examples.add", ("net", "tax"))},
    ]
    workers.create_workflow(
        "dag",
        parameters=[{"name": "shipping", "value": 12}, {"name": "rate", "value": 0.25}],
        dag={"steps": steps},
        outputs=[output("net", "net"), output("tax", "tax"), output("gross", "gross")],
    )
    ended = workers.wait_ended("dag", within=RUN_SECONDS)
    assert condition(ended, "Succeeded")["status"] == "True"
    assert workers.outputs("dag") == {"net": 160, "tax": 40.0, "gross": 200.0}


def test_a_failing_task_fails_the_run_after_its_retries(workers: Playground) -> None:
    fails = {**task("examples.fail", "as expected"), "retry": {"limit": 2, "backoff": {"initialSeconds": 0}}}
    workers.create_workflow(
        "fails", chain=[_add(1, 1), {"name": "bad", "task": {**fails, "immutable": True}}, _times(2)]
    )
    ended = workers.wait_ended("fails", within=RUN_SECONDS)
    found = condition(ended, "Succeeded")
    assert (found["status"], found["reason"]) == ("False", "TaskFailed")
    assert "bad" in found["message"]
    status = ended["status"]
    counts = {name: status["tasks"][name] for name in ("total", "succeeded", "failed", "retried", "skipped")}
    assert counts == {"total": 3, "succeeded": 1, "failed": 1, "retried": 2, "skipped": 1}
    attempts = [(each["step"], each["attempt"], each["exception"], each["message"]) for each in status["failures"]]
    assert sorted(attempts) == [("bad", attempt, "RuntimeError", "as expected") for attempt in (1, 2, 3)]
    steps = {step["name"]: (step["state"], step.get("attempts")) for step in status["steps"]}
    assert steps["bad"] == ("Failed", 3)
    workers.wait_event("CeleryWorkflow", "fails", "TaskFailed")


def test_kubectl_wait_sees_the_end(workers: Playground) -> None:
    workers.create_workflow("waited-for", chain=[_add(1, 1)])
    workers.cluster.kubectl(
        "wait", "--for=condition=Succeeded", "celwf/waited-for", "-n", workers.name, "--timeout=30s"
    )


def test_tolerated_failures_are_said_and_leave_null(workers: Playground) -> None:
    product = {"items": {"list": [2, "two", 3]}, "maxFailed": 1, "task": SQUARE}
    workers.create_workflow("tolerant", chain=[{"map": product}], outputs=[output("result")])
    ended = workers.wait_ended("tolerant", within=RUN_SECONDS)
    found = condition(ended, "Succeeded")
    assert (found["status"], found["reason"]) == ("True", "CompletedWithFailures")
    assert workers.outputs("tolerant") == {"result": [4, None, 9]}


def test_too_many_failed_items_fail_the_run(workers: Playground) -> None:
    product = {"items": {"list": ["one", "two", 3]}, "maxFailed": 1, "task": SQUARE}
    workers.create_workflow("intolerant", chain=[{"map": product}])
    ended = workers.wait_ended("intolerant", within=RUN_SECONDS)
    found = condition(ended, "Succeeded")
    assert (found["status"], found["reason"]) == ("False", "TooManyItemsFailed")


def test_a_deadline_ends_the_run(workers: Playground) -> None:
    workers.create_workflow(
        "late", runPolicy={"activeDeadlineSeconds": 2}, chain=[{"task": task("examples.sleep", 6)}, _times(2)]
    )
    ended = workers.wait_ended("late", within=RUN_SECONDS)
    found = condition(ended, "Succeeded")
    assert (found["status"], found["reason"]) == ("False", "DeadlineExceeded")


def test_a_suspended_workflow_publishes_nothing_until_it_is_resumed(workers: Playground) -> None:
    work = fan_out_and_total(items=20, seconds=0.3, parallelism=2)
    workers.create_workflow("pauses", **work)
    workers.wait("CeleryWorkflow", "pauses", _has_begun, within=RUN_SECONDS, what="some progress")
    workers.patch("CeleryWorkflow", "pauses", {"spec": {"suspend": True}})
    workers.wait_condition("CeleryWorkflow", "pauses", "Suspended", "True", within=10)
    workers.wait("CeleryWorkflow", "pauses", _is_quiet, within=10, what="the end of what was running")
    before = len(workers.ledger.started())
    # Three seconds: ten times as long as one task.
    workers.hold("CeleryWorkflow", "pauses", _is_quiet, looks=10, every=0.3)
    assert len(workers.ledger.started()) == before, "a suspended workflow went on"
    workers.patch("CeleryWorkflow", "pauses", {"spec": {"suspend": False}})
    ended = workers.wait_ended("pauses", within=RUN_SECONDS)
    assert condition(ended, "Succeeded")["status"] == "True"
    assert workers.outputs("pauses") == {"total": sum(range(20))}
    assert condition(ended, "Suspended")["status"] == "False"


def test_a_workflow_that_is_created_suspended_waits(workers: Playground) -> None:
    workers.create_workflow("waits", suspend=True, chain=[_add(2, 2)], outputs=[output("result")])
    workers.wait_condition("CeleryWorkflow", "waits", "Suspended", "True", within=10)
    assert workers.get("CeleryWorkflow", "waits")["status"]["tasks"]["waiting"] == 1
    workers.patch("CeleryWorkflow", "waits", {"spec": {"suspend": False}})
    workers.wait_ended("waits", within=RUN_SECONDS)
    assert workers.outputs("waits") == {"result": 4}


def test_deleting_a_workflow_revokes_what_waits(workers: Playground) -> None:
    first = len(workers.ledger.started())
    slow = {"items": {"range": {"start": 0, "end": 40}}, "task": on_item("examples.ledger.record", 1)}
    workers.create_workflow("unwanted", chain=[{"map": slow}])
    workers.wait("CeleryWorkflow", "unwanted", _has_begun, within=RUN_SECONDS, what="some progress")
    workers.delete("CeleryWorkflow", "unwanted")
    workers.create_workflow("after", chain=[_add(1, 2)], outputs=[output("result")])
    workers.wait_ended("after", within=RUN_SECONDS)
    assert workers.outputs("after") == {"result": 3}
    assert len(workers.ledger.started()) - first < 40, "all tasks of a deleted workflow ran"


def test_status_stays_small_whatever_the_fan_out(workers: Playground) -> None:
    items = {"items": {"range": {"start": 0, "end": 2000}}, "task": on_item("examples.add", 1)}
    workers.create_workflow("wide", chain=[{"map": items}, {"task": TOTAL}], outputs=[output("result")])
    workers.wait_ended("wide", within=120)
    assert workers.outputs("wide") == {"result": sum(range(2001))}
    text = workers.cluster.kubectl("get", "celwf", "wide", "-n", workers.name, "-o", "jsonpath={.status}")
    assert len(text) < 20_000


def _with(name: str, steps: tuple[str, ...], *sources: dict[str, Any]) -> dict[str, Any]:
    references = [{"resultOf": {"step": step}} for step in steps]
    return {"name": name, "args": [{"valueFrom": source} for source in (*references, *sources)]}


def _has_begun(workflow: dict[str, Any]) -> bool:
    return int(workflow.get("status", {}).get("tasks", {}).get("succeeded", 0)) >= 2


def _is_quiet(workflow: dict[str, Any]) -> bool:
    tasks = workflow["status"]["tasks"]
    return bool(tasks["running"] == 0 and tasks["queued"] == 0)
