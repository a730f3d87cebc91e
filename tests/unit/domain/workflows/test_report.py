"""The status: whole, for what people look at first; bounded, whatever is in it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_operator.api import workflow as api
from celery_operator.api.conditions import Condition, Reason
from celery_operator.api.workflow import (
    Checkpoint,
    OutputReference,
    OutputValue,
    StepStatus,
    TaskCounts,
    WorkflowStatus,
)
from celery_operator.domain.errors import BrokerError, ResultBackendError, SpecError
from celery_operator.domain.workflows.bounds import STATUS_BYTES, bounded, size_of
from celery_operator.domain.workflows.graph import Call, Graph, Node
from celery_operator.domain.workflows.plan import Finish
from celery_operator.domain.workflows.report import Reachability, Stall, report
from celery_operator.domain.workflows.state import CODES, Cause, Code, Failure, RunState, StepState, initial_state
from celery_operator.domain.workflows.step_report import intervals
from celery_patterns.protocol import task_id
from unit.domain.workflows.simulation import NOW, UID, graph_of, spec_of, step, told

SPEC = spec_of(chain=[{"task": {"name": "a"}}, {"map": {"items": {"list": [1, 2]}, "task": {"name": "b"}}}])
GRAPH = graph_of(chain=SPEC.model_dump(by_alias=True, exclude_unset=True)["chain"])
T = "2026-11-22T12:00:00Z"
LATER = NOW + timedelta(seconds=5)
T5 = "2026-11-22T12:00:05Z"


def status_of(**fields: Any) -> WorkflowStatus:
    given_fields = {
        "spec": SPEC,
        "graph": GRAPH,
        "state": initial_state(GRAPH, now=NOW),
        "previous": None,
        "generation": 1,
        "now": NOW,
        "uid": UID,
        **fields,
    }
    return report(**given_fields)


def conditions(status: WorkflowStatus) -> dict[str, tuple[str, str, str]]:
    return {each.type: (each.status, each.reason, each.message) for each in status.conditions}


STILL = {
    "Accepted": ("True", "Accepted", ""),
    "BrokerReachable": ("Unknown", "NotChecked", ""),
    "ResultBackendReachable": ("Unknown", "NotChecked", ""),
    "Reconciling": ("True", "Progressing", ""),
    "Suspended": ("False", "NotSuspended", ""),
    "Stalled": ("False", "MakingProgress", ""),
    "Succeeded": ("Unknown", "Running", ""),
}


def test_a_run_in_its_middle_is_shown_whole() -> None:
    state = step(GRAPH, initial_state(GRAPH, now=NOW)).state
    plan = step(GRAPH, state, told_of(GRAPH, state, value=1), now=LATER)
    failed = told(plan.publish[1], "failed", exception="ValueError", message="bad", worker="w@h", time=LATER)
    state = step(GRAPH, plan.state, told(plan.publish[0], "started"), failed, now=LATER).state
    status = status_of(
        state=state,
        now=LATER,
        broker=Reachability.up(),
        backend=Reachability.up(),
        checkpoint=Checkpoint(name="x-state", time=T5),
    )
    up = ("True", "Connected", "")
    assert conditions(status) == {**STILL, "BrokerReachable": up, "ResultBackendReachable": up}
    assert {each.last_transition_time for each in status.conditions} == {T5}
    assert status.model_copy(update={"conditions": []}).to_resource() == {
        "observedGeneration": 1,
        "phase": "Running",
        "startTime": T,
        "progress": "2/3",
        "run": 1,
        "tasks": {
            "total": 3,
            "waiting": 0,
            "queued": 0,
            "running": 1,
            "succeeded": 1,
            "failed": 1,
            "retried": 0,
            "skipped": 0,
            "revoked": 0,
        },
        "conditions": [],
        "steps": [
            {
                "name": "s0",
                "type": "Task",
                "state": "Succeeded",
                "attempts": 1,
                "startTime": T,
                "completionTime": T5,
            },
            {
                "name": "s1",
                "type": "Map",
                "state": "Running",
                "tasks": {
                    "total": 2,
                    "waiting": 0,
                    "queued": 0,
                    "running": 1,
                    "succeeded": 0,
                    "failed": 1,
                    "retried": 0,
                    "skipped": 0,
                    "revoked": 0,
                },
                "failedIndexes": "1",
                "startTime": T5,
            },
        ],
        "failures": [
            {
                "step": "s1",
                "index": 1,
                "taskID": task_id(UID, 1, "s1", 1, 1),
                "attempt": 1,
                "exception": "ValueError",
                "message": "bad",
                "worker": "w@h",
                "time": T5,
            }
        ],
        "outputs": [],
        "checkpoint": {"name": "x-state", "time": T5},
    }


def told_of(graph: Graph, state: RunState, **fields: Any) -> Any:
    """Return the outcome of the run's first task."""
    return told(step(graph, initial_state(graph, now=state.started)).publish[0], **fields)


def test_the_end_is_shown_with_its_reason_time_and_outputs() -> None:
    finish = Finish(
        succeeded=True, reason=Reason.COMPLETED, message="2 tasks", outputs=(OutputValue(name="o", value=8),)
    )
    status = status_of(finish=finish, now=LATER)
    done = {**STILL, "Reconciling": ("False", "Settled", ""), "Succeeded": ("True", "Completed", "2 tasks")}
    assert conditions(status) == done
    assert (status.phase, status.completion_time, status.message) == ("Succeeded", T5, "2 tasks")
    assert status.outputs == [OutputValue(name="o", value=8)]
    again = status_of(finish=finish, previous=status, now=LATER + timedelta(seconds=9))
    assert again == status


def test_a_failed_run_says_why() -> None:
    status = status_of(finish=Finish(succeeded=False, reason=Reason.TASKS_LOST, message="gone"))
    assert conditions(status)["Succeeded"] == ("False", "TasksLost", "gone")
    assert status.phase == "Failed"


@pytest.mark.parametrize("reason", [Reason.INVALID_SPEC, Reason.CYCLE_DETECTED, Reason.UNKNOWN_STEP])
def test_a_spec_that_is_wrong_has_failed_since_it_cannot_change(reason: Reason) -> None:
    status = status_of(spec=None, graph=None, state=None, refused=SpecError(reason, "spec.x: wrong"))
    assert conditions(status) == {
        **STILL,
        "Accepted": ("False", reason.value, "spec.x: wrong"),
        "Reconciling": ("False", "Settled", ""),
        "Stalled": ("True", "NotAccepted", "spec.x: wrong"),
        "Succeeded": ("False", "InvalidSpec", "spec.x: wrong"),
    }
    assert (status.phase, status.completion_time, status.message) == ("Failed", T, "spec.x: wrong")
    assert (status.steps, status.progress) == ([], "0/0")


def test_a_refusal_that_can_heal_waits() -> None:
    refused = SpecError(Reason.APP_NOT_FOUND, "no CeleryApp 'shop'")
    status = status_of(graph=None, state=None, refused=refused)
    assert conditions(status) == {
        **STILL,
        "Accepted": ("False", "AppNotFound", "no CeleryApp 'shop'"),
        "Reconciling": ("False", "Settled", ""),
        "Stalled": ("True", "NotAccepted", "no CeleryApp 'shop'"),
    }
    assert status.phase == "Pending"
    healed = status_of(previous=status, now=LATER)
    assert conditions(healed) == STILL
    assert {each.type: each.last_transition_time for each in healed.conditions} == {
        "Accepted": T5,
        "BrokerReachable": T,
        "ResultBackendReachable": T,
        "Reconciling": T5,
        "Suspended": T,
        "Stalled": T5,
        "Succeeded": T,
    }
    assert (healed.phase, healed.message) == ("Running", None)


def test_a_refusal_in_the_middle_of_a_run_leaves_what_was_shown_of_it() -> None:
    running = status_of()
    refused = SpecError(Reason.SECRET_NOT_FOUND, "no Secret")
    status = status_of(graph=None, state=None, refused=refused, previous=running)
    assert (status.steps, status.progress, status.start_time) == (running.steps, "0/3", T)


def test_suspended_is_settled_once_nothing_runs() -> None:
    spec = SPEC.model_copy(update={"suspend": True})
    idle = initial_state(GRAPH, now=NOW)
    busy = step(GRAPH, idle).state
    suspended = {**STILL, "Suspended": ("True", "SuspendedBySpec", "")}
    assert conditions(status_of(spec=spec, state=busy)) == suspended
    assert conditions(status_of(spec=spec, state=idle)) == {**suspended, "Reconciling": ("False", "Settled", "")}
    assert status_of(spec=spec).phase == "Suspended"


def test_servers_that_do_not_answer_and_queues_without_workers_are_named() -> None:
    status = status_of(
        broker=Reachability.down(BrokerError("refused by redis://***@b", Reason.AUTHENTICATION_FAILED)),
        backend=Reachability.down(ResultBackendError("no route")),
        stall=Stall.store(ResultBackendError("no route")),
    )
    stalled = "no route; the run goes on when it answers"
    assert conditions(status) == {
        **STILL,
        "BrokerReachable": ("False", "AuthenticationFailed", "refused by redis://***@b"),
        "ResultBackendReachable": ("False", "ConnectionFailed", "no route"),
        "Stalled": ("True", "StoreUnreachable", stalled),
    }
    assert status.message == stalled
    waiting = status_of(stall=Stall.no_workers(["hot", "cold"]))
    assert conditions(waiting)["Stalled"] == (
        "True",
        "NoWorkersForQueue",
        "tasks wait in hot, cold and no worker takes them: start a pool for them",
    )


def test_a_later_run_has_times_of_its_own() -> None:
    first = status_of(finish=Finish(succeeded=False, reason=Reason.TASK_FAILED, message=""))
    state = initial_state(GRAPH, run=2, now=LATER)
    second = status_of(state=state, previous=first, now=LATER)
    assert (second.run, second.start_time, second.completion_time, second.phase) == (2, T5, None, "Running")
    resumed = status_of(state=initial_state(GRAPH, run=2, now=LATER + timedelta(hours=1)), previous=second)
    assert resumed.start_time == T5


def test_a_step_of_unknown_length_counts_as_one_task() -> None:
    items = {"resultOf": {"step": "s0"}}
    graph = graph_of(chain=[{"task": {"name": "a"}}, {"map": {"items": items, "task": {"name": "b"}}}])
    status = status_of(graph=graph, state=initial_state(graph, now=NOW))
    assert (status.progress, status.steps[1].tasks) == ("0/2", None)
    plan = step(graph, initial_state(graph, now=NOW))
    failed = status_of(graph=graph, state=step(graph, plan.state, told(plan.publish[0], "failed")).state)
    assert failed.tasks == TaskCounts(total=2, failed=1, skipped=1)
    assert [each.state for each in failed.steps] == ["Failed", "Skipped"]
    assert [each.attempts for each in failed.steps] == [1, None]


def test_attempts_of_a_single_task_are_those_that_were_published() -> None:
    graph = graph_of(chain=[{"task": {"name": "a", "retry": {"limit": 3}}}])
    plan = step(graph, initial_state(graph, now=NOW))
    waiting = step(graph, plan.state, told(plan.publish[0], "failed")).state
    status = status_of(graph=graph, state=waiting)
    assert (status.steps[0].attempts, status.tasks.retried, status.tasks.waiting) == (1, 1, 1)
    assert [(each.step, each.index, each.attempt) for each in status.failures] == [("s0", None, 1)]


def test_failure_of_a_chords_body_has_no_index() -> None:
    graph = graph_of(chord={"header": [{"task": {"name": "a"}}], "body": {"name": "b"}})
    header = step(graph, initial_state(graph, now=NOW))
    body = step(graph, header.state, told(header.publish[0], "succeeded"))
    failed = step(graph, body.state, told(body.publish[0], "failed")).state
    assert [each.index for each in status_of(graph=graph, state=failed).failures] == [None]


@pytest.mark.parametrize(
    ("codes", "text"),
    [
        ("", ""),
        ("4", ""),
        ("5", "0"),
        ("4555455", "1-3,5-6"),
        ("545", "0,2"),
    ],
)
def test_failed_indexes_are_intervals(codes: str, text: str) -> None:
    assert intervals(bytes(int(code) for code in codes)) == text


def test_failed_indexes_are_cut_between_intervals() -> None:
    items = bytes((Code.FAILED, Code.SUCCEEDED)) * 50_000
    text = intervals(items)
    assert 1000 < len(text) <= 1024
    numbers = [int(each) for each in text.split(",")]
    assert numbers == list(range(0, 2 * len(numbers), 2))


# ------------------------------------------------------------------------------------------------------------ bounds

NASTY = ["x", '"', "\\", "\n", "\U0001f600", "é"]


def worst(letter: str, nodes: int, *, failures: int = 20, fit: bool = True) -> WorkflowStatus:
    """Return the status of a run in which every text, list and number is as long as it can be."""
    items = bytes((Code.FAILED, Code.SUCCEEDED)) * 5_000
    counts = tuple(items.count(code) for code in range(CODES))
    cause = Cause(0, 1, letter * 128, letter * 256)
    names = [f"{number:063d}" for number in range(nodes)]
    state = RunState(
        1,
        NOW,
        {
            name: StepState("Failed", items, counts, started=NOW, ended=NOW, cause=cause, error=letter * 2000)
            for name in names
        },
        tuple(Failure(names[0], 9999, 101, letter * 128, letter * 256, letter * 128, NOW) for _ in range(failures)),
    )
    graph = Graph(tuple(Node(name, "Map", Call("f")) for name in names))
    value = "v" * 4000 if fit else None
    outputs = (
        OutputValue(name="a" * 63, value=value),
        *(
            OutputValue(name="a" * 63, reference=OutputReference(step=names[0], task_id=task_id(UID, 1, "s", 0, 1)))
            for _ in range(19)
        ),
    )
    text = letter * 3000
    return status_of(
        graph=graph,
        state=state,
        finish=Finish(succeeded=False, reason=Reason.TASK_FAILED, message=text, outputs=outputs),
        broker=Reachability.down(BrokerError(text)),
        backend=Reachability.down(ResultBackendError(text)),
        refused=SpecError(Reason.SECRET_NOT_FOUND, text),
        checkpoint=Checkpoint(name="c" * 253, time=T),
    )


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NASTY), st.sampled_from([1, 30, 150, 1000]))
def test_a_status_stays_below_64_kib_with_everything_at_its_largest(letter: str, nodes: int) -> None:
    status = worst(letter, nodes)
    body = status.to_resource()
    assert len(json.dumps(body, ensure_ascii=False).encode()) < 65_536
    assert WorkflowStatus.model_validate(body) == status
    assert len(status.conditions) == 7
    assert status.phase == "Failed"


def padded(steps: list[StepStatus]) -> WorkflowStatus:
    return WorkflowStatus(steps=steps, message="m")


def test_detail_of_steps_goes_before_steps_and_failed_steps_stay_longest() -> None:
    def step_status(number: int, state: Any, **fields: Any) -> StepStatus:
        return StepStatus(name=f"{number:063d}", type="Map", state=state, **fields)

    full = {"failed_indexes": "1" * 1024, "message": "m" * 256}
    timed = {"start_time": T, "completion_time": T}
    few = padded([step_status(at, "Failed", **full, **timed, tasks=TaskCounts()) for at in range(100)])
    assert bounded(few) == padded([step_status(at, "Failed", **timed, tasks=TaskCounts()) for at in range(100)])
    more = padded([step_status(at, "Failed", **full, **timed, tasks=TaskCounts()) for at in range(220)])
    assert bounded(more) == padded([step_status(at, "Failed", tasks=TaskCounts()) for at in range(220)])
    many = padded([step_status(at, "Failed", **full, **timed, tasks=TaskCounts()) for at in range(400)])
    assert bounded(many) == padded([step_status(at, "Failed") for at in range(400)])
    states = ["Succeeded", "Failed", "Skipped", "Running"]
    most = bounded(padded([step_status(at, states[at % 4], **full) for at in range(1000)]))
    kept = [each.state for each in most.steps]
    assert (kept.count("Failed"), kept.count("Running"), kept.count("Succeeded")) == (250, 250, 0)
    assert [each.name for each in most.steps] == sorted(each.name for each in most.steps)
    assert STATUS_BYTES - 200 < size_of(most) <= STATUS_BYTES


def test_the_oldest_failures_go_before_outputs() -> None:
    fat = [
        api.Failure(step=f"{at}", task_id=UID, attempt=1, exception="\n" * 128, message='"' * 256, time=T * 3)
        for at in range(20)
    ]
    outputs = [OutputValue(name="a", value="v" * 50_000)]
    status = bounded(WorkflowStatus(failures=fat, outputs=outputs))
    assert status == WorkflowStatus(failures=fat[: len(status.failures)], outputs=outputs)
    assert 0 < len(status.failures) < 20
    assert bounded(WorkflowStatus(outputs=[OutputValue(name="a", value="v" * 70_000)])) == WorkflowStatus()


def test_a_small_status_is_left_as_it_is() -> None:
    status = WorkflowStatus(
        conditions=[Condition(type="Accepted", status="True", reason="Accepted", last_transition_time=T)]
    )
    assert bounded(status) is status
