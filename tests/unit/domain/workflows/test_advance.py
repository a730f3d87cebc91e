"""Plans, whole, for what each rule says; and who is asked for again, revoked, skipped or told."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

import pytest

from celery_operator.api.conditions import Reason
from celery_operator.api.workflow import OutputReference, OutputValue, RunPolicy
from celery_operator.domain.messages import TaskMessage
from celery_operator.domain.workflows.advance import PLAN_MESSAGES
from celery_operator.domain.workflows.graph import Graph
from celery_operator.domain.workflows.lookups import Outstanding, outstanding
from celery_operator.domain.workflows.plan import Fetch, Finish, Observed, Outcome, Plan
from celery_operator.domain.workflows.state import Cause, Code, Due, Failure, RunState, initial_state
from celery_patterns.protocol import REFERENCE_KEY, ResultReference, TaskIdentity, task_id
from unit.domain.workflows.simulation import NOW, UID, graph_of, step, told


def begin(**work: Any) -> tuple[Graph, RunState]:
    graph = graph_of(**work)
    return graph, initial_state(graph, now=NOW)


def message(
    name: str, call: str, *args: Any, index: int = 0, attempt: int = 1, inline: bool = True, **fields: Any
) -> TaskMessage:
    identity = TaskIdentity(UID, 1, name, index, attempt, values_inline=inline)
    return TaskMessage(identity, call, args, **fields)


def phases(state: RunState) -> dict[str, str]:
    return {name: each.phase for name, each in state.steps.items()}


def reference(name: str, **fields: Any) -> dict[str, Any]:
    return ResultReference(UID, 1, name, **fields).to_json()


def attempt_id(name: str, index: int = 0, attempt: int = 1) -> str:
    return task_id(UID, 1, name, index, attempt)


def t(name: str = "f", *args: Any, **fields: Any) -> dict[str, Any]:
    written = [{"valueFrom": each} if isinstance(each, dict) else {"value": each} for each in args]
    return {"task": {"name": name, "args": written, **fields}}


def mapped(items: dict[str, Any], *args: Any, **fields: Any) -> dict[str, Any]:
    return {"map": {"items": items, **t("m", *args), **fields}}


CHAIN = {"chain": [t("a"), t("b", queue="hot", timeLimitSeconds=9, softTimeLimitSeconds=8)]}
NO_JITTER = {"initialSeconds": 4, "factor": 3, "maxSeconds": 10, "jitterPercent": 0}

# ------------------------------------------------------------------------------------------------- from task to task


def test_a_chain_publishes_one_task_after_the_other_and_then_it_has_finished() -> None:
    graph, state = begin(**CHAIN, outputs=[{"name": "all", "valueFrom": {"result": "$"}}])
    first = step(graph, state)
    assert first == Plan(first.state, publish=(message("s0", "a"),))
    second = step(graph, first.state, told(first.publish[0], value={"k": 1}, size=9))
    assert second == Plan(
        second.state,
        publish=(message("s1", "b", {"k": 1}, queue="hot", time_limit=9, soft_time_limit=8),),
    )
    last = step(graph, second.state, told(second.publish[0], value=[2]))
    outputs = (OutputValue(name="all", value=[2]),)
    finish = Finish(succeeded=True, reason=Reason.COMPLETED, message="2 tasks succeeded", outputs=outputs)
    assert last == Plan(last.state, finished=finish)
    again = step(graph, last.state)
    assert again == last
    assert again.state is last.state


def test_a_result_that_was_not_announced_or_is_large_goes_by_reference() -> None:
    graph, state = begin(chain=[t("a"), t("b", {"previousResult": "$.rows"})])
    first = step(graph, state)
    for outcome in (told(first.publish[0]), told(first.publish[0], value={"rows": "x" * 5000})):
        plan = step(graph, first.state, outcome)
        assert plan.publish == (message("s1", "b", reference("s0", path="$.rows"), inline=False),)


def test_results_travel_inline_only_as_long_as_they_fit_together() -> None:
    graph, state = begin(chain=[{"group": [t("a"), t("b"), t("c")]}, t("d")])
    first = step(graph, state)
    long, short = "x" * 3000, "y" * 500
    results = [told(each, value=value) for each, value in zip(first.publish, (long, long, short), strict=True)]
    plan = step(graph, first.state, *results)
    assert plan.publish == (message("s1", "d", [long, reference("s0-1"), short], inline=False),)


def test_a_result_that_looks_like_a_reference_is_never_taken_for_one() -> None:
    graph, state = begin(chain=[t("a"), t("b")])
    first = step(graph, state)
    plan = step(graph, first.state, told(first.publish[0], value={REFERENCE_KEY: {"step": "other"}}))
    assert plan.publish == (message("s1", "b", reference("s0"), inline=False),)


def test_a_path_that_selects_nothing_in_a_known_result_fails_the_step_with_a_sentence() -> None:
    graph, state = begin(chain=[t("a"), t("b", {"previousResult": "$.rows"})])
    first = step(graph, state)
    plan = step(graph, first.state, told(first.publish[0], value=[1]))
    problem = "the result of step 's0': the path '$.rows' selects nothing: $ is a list of 1 and has no member 'rows'"
    assert plan == Plan(
        plan.state,
        finished=Finish(
            succeeded=False, reason=Reason.TASK_FAILED, message=f"step 's1' failed: PathNotFound: {problem}"
        ),
    )
    assert plan.state.failures == (Failure("s1", 0, 1, "PathNotFound", problem, "", NOW),)


def test_a_reduce_gets_slices_of_the_map_then_of_its_own_calls() -> None:
    graph, state = begin(
        mapReduce={
            "items": {"list": [7, 8, 9]},
            "map": {"name": "m"},
            "combine": {"name": "c"},
            "reduce": {"name": "r", "args": [{"value": 5}]},
            "fanIn": 2,
            "maxFailed": 1,
        },
        taskDefaults={"retry": {"limit": 1, "classes": ["Lost"], "backoff": {"initialSeconds": 0}}},
    )
    plan = step(graph, state)
    assert plan.publish == tuple(message("map", "m", item, index=at) for at, item in enumerate([7, 8, 9]))
    one, two, three = plan.publish
    plan = step(graph, plan.state, told(one), told(two, "failed"), told(three, "lost"))
    assert plan.publish == (message("map", "m", 9, index=2, attempt=2),)
    plan = step(graph, plan.state, told(plan.publish[0]))
    left = reference("map", start=0, stop=1)
    right = reference("map", start=1, stop=3, attempts=((2, 2),), missing=(1,))
    assert plan.publish == (
        message("reduce", "c", left, inline=False),
        message("reduce", "c", right, index=1, inline=False),
    )
    plan = step(graph, plan.state, *(told(each) for each in plan.publish))
    assert plan.publish == (message("reduce", "r", reference("reduce", start=0, stop=2), 5, index=2, inline=False),)
    plan = step(graph, plan.state, told(plan.publish[0], value=1))
    assert plan.finished == Finish(
        succeeded=True,
        reason=Reason.COMPLETED_WITH_FAILURES,
        message="5 tasks succeeded; 1 failed as the spec allows",
    )


def test_a_combine_begins_as_soon_as_its_own_slice_is_there() -> None:
    graph, state = begin(
        mapReduce={
            "items": {"range": {"end": 5}},
            "map": {"name": "m"},
            "combine": {"name": "c"},
            "reduce": {"name": "r"},
            "fanIn": 2,
        }
    )
    plan = step(graph, state)
    plan = step(graph, plan.state, *(told(each) for each in plan.publish))
    assert [each.identity.index for each in plan.publish] == [0, 1, 2]
    plan = step(graph, plan.state, told(plan.publish[0]))
    assert plan.publish == (message("reduce", "c", reference("reduce", start=0, stop=1), index=3, inline=False),)


def test_an_empty_fan_out_succeeds_with_an_empty_list() -> None:
    graph, state = begin(
        chain=[mapped({"list": []}), t("a")], outputs=[{"name": "none", "valueFrom": {"resultOf": {"step": "s0"}}}]
    )
    plan = step(graph, state)
    assert plan.publish == (message("s1", "a", reference("s0", start=0, stop=0), inline=False),)
    plan = step(graph, plan.state, told(plan.publish[0], value=1))
    assert plan.finished is not None
    assert plan.finished.outputs == (OutputValue(name="none", value=[]),)


def test_an_empty_reduce_calls_its_task_with_an_empty_list() -> None:
    graph, state = begin(mapReduce={"items": {"list": []}, "map": {"name": "m"}, "reduce": {"name": "r"}})
    assert step(graph, state).publish == (message("reduce", "r", []),)


# ------------------------------------------------------------------------------------------------------ dynamic items

DYNAMIC = {"chain": [t("a"), mapped({"resultOf": {"step": "s0", "path": "$.files"}}, {"item": "$.n"})]}


def test_items_of_a_small_announced_result_need_no_fetch() -> None:
    graph, state = begin(**DYNAMIC)
    first = step(graph, state)
    plan = step(graph, first.state, told(first.publish[0], value={"files": [{"n": 1}, {"n": 2}]}))
    assert (plan.publish, plan.fetch) == ((message("s1", "m", 1), message("s1", "m", 2, index=1)), ())


def test_items_of_any_other_result_are_fetched_and_large_ones_go_by_reference() -> None:
    graph, state = begin(**DYNAMIC)
    first = step(graph, state)
    plan = step(graph, first.state, told(first.publish[0]))
    assert (plan.publish, plan.fetch) == ((), (Fetch("s0", (attempt_id("s0"),)),))
    assert step(graph, plan.state).fetch == plan.fetch
    large = "x" * 5000
    plan = step(graph, plan.state, observed=Observed(values={"s0": {"files": [{"n": large}, {"n": 2}]}}))
    assert plan.publish == (
        message("s1", "m", reference("s0", path="$.files[0].n"), inline=False),
        message("s1", "m", 2, index=1),
    )
    assert dict(plan.state.values) == {}


def test_a_fetched_list_is_kept_until_all_its_items_are_published() -> None:
    graph, state = begin(chain=[t("a"), mapped({"resultOf": {"step": "s0"}}, parallelism=1)])
    plan = step(graph, state)
    plan = step(graph, plan.state, told(plan.publish[0]))
    plan = step(graph, plan.state, observed=Observed(values={"s0": ["x" * 3000, "y" * 3000]}))
    assert plan.publish == (message("s1", "m", "x" * 3000),)
    plan = step(graph, plan.state, told(plan.publish[0]))
    assert (plan.publish, plan.fetch) == ((message("s1", "m", "y" * 3000, index=1),), ())
    plan = step(graph, plan.state, told(plan.publish[0]))
    assert plan.state.lists == {}


def test_a_run_never_grows_beyond_what_a_checkpoint_can_hold() -> None:
    graph, state = begin(
        group=[
            {"chain": [t("a"), mapped({"resultOf": {"step": "s0-0"}})]},
            mapped({"range": {"end": 1_000_000}}),
            mapped({"range": {"end": 999_999}}),
        ]
    )
    plan = step(graph, state)
    plan = step(graph, plan.state, told(plan.publish[0], value=[1]))
    assert plan.state.steps["s0-1"].error == (
        "TooManyItems: with 1 more tasks the run has over 2000000; split the workflow"
    )


def test_items_of_a_map_are_its_items_results_without_a_fetch() -> None:
    graph, state = begin(chain=[mapped({"list": [1, 2]}), mapped({"resultOf": {"step": "s0"}}, {"item": "$.x"})])
    plan = step(graph, state)
    plan = step(graph, plan.state, *(told(each) for each in plan.publish))
    assert plan.publish == tuple(
        message("s1", "m", reference("s0", start=at, path="$.x"), index=at, inline=False) for at in (0, 1)
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"files": "abc"}, "NotAList: items must be a list, but the result of step 's0' at $.files is a string"),
        (
            3,
            "PathNotFound: the result of step 's0': the path '$.files' selects nothing: "
            "$ is a number and has no member 'files'",
        ),
        ({"files": [0] * 1_000_001}, "TooManyItems: 1000001 items; a map may have 1000000"),
    ],
)
def test_what_is_no_list_of_items_fails_the_step_with_a_sentence(value: Any, problem: str) -> None:
    graph, state = begin(**DYNAMIC)
    plan = step(graph, state)
    plan = step(graph, plan.state, told(plan.publish[0]))
    plan = step(graph, plan.state, observed=Observed(values={"s0": value}))
    assert plan.finished == Finish(succeeded=False, reason=Reason.TASK_FAILED, message=f"step 's1' failed: {problem}")


def test_items_that_can_never_be_read_fail_the_step_with_the_reason() -> None:
    graph, state = begin(**DYNAMIC)
    plan = step(graph, state)
    plan = step(graph, plan.state, told(plan.publish[0]))
    plan = step(graph, plan.state, observed=Observed(unreadable={"s0": "it has expired"}))
    assert plan.finished == Finish(
        succeeded=False,
        reason=Reason.TASK_FAILED,
        message="step 's1' failed: ResultUnavailable: the result of step 's0' cannot be read: it has expired",
    )


def test_an_item_whose_path_selects_nothing_is_a_failed_item() -> None:
    graph, state = begin(group=[mapped({"list": [{"n": 1}, {}]}, {"item": "$.n"}, maxFailed=1)])
    plan = step(graph, state)
    assert plan.publish == (message("s0", "m", 1),)
    plan = step(graph, plan.state, told(plan.publish[0]))
    assert plan.finished is not None
    assert plan.finished.reason == Reason.COMPLETED_WITH_FAILURES


def test_what_was_chosen_and_given_up_in_one_plan_is_neither_sent_nor_revoked() -> None:
    graph, state = begin(group=[mapped({"list": [{"n": 1}, {}, {"n": 3}]}, {"item": "$.n"})])
    plan = step(graph, state)
    assert (plan.publish, plan.revoke) == ((), ())
    assert plan.state.steps["s0"].items == bytes((Code.SKIPPED, Code.FAILED, Code.SKIPPED))
    assert plan.finished is not None


# ------------------------------------------------------------------------------------------------------------ retries


def test_a_failed_attempt_is_tried_again_under_another_id_after_its_backoff() -> None:
    graph, state = begin(chain=[t("a", retry={"limit": 2, "backoff": NO_JITTER})])
    plan = step(graph, state)
    plan = step(graph, plan.state, told(plan.publish[0], "failed", exception="ValueError", message="bad", worker="w"))
    due = NOW + timedelta(seconds=4)
    assert plan == Plan(plan.state, wake_at=due)
    assert plan.state.steps["s0"].due == (Due(due, 0, 2),)
    assert step(graph, plan.state, now=due - timedelta(milliseconds=1)).publish == ()
    plan = step(graph, plan.state, now=due)
    assert plan.publish == (message("s0", "a", attempt=2),)
    plan = step(graph, plan.state, told(plan.publish[0], "timed_out", time=due), now=due)
    later = due + timedelta(seconds=10)
    assert plan.wake_at == later
    plan = step(graph, plan.state, now=later)
    plan = step(graph, plan.state, told(plan.publish[0], "lost", time=later), now=later)
    assert plan.finished == Finish(
        succeeded=False,
        reason=Reason.TASKS_LOST,
        message="step 's0' failed (attempt 3): WorkerLostError: its worker died",
    )
    assert plan.state.failures == (
        Failure("s0", 0, 1, "ValueError", "bad", "w", NOW),
        Failure("s0", 0, 2, "TimeLimitExceeded", "the task's time limit ended it", "", due),
        Failure("s0", 0, 3, "WorkerLostError", "its worker died", "", later),
    )


def test_classes_say_what_is_tried_again() -> None:
    graph, state = begin(chain=[t("a", retry={"limit": 5, "classes": ["Lost"]})])
    plan = step(graph, state)
    assert step(graph, plan.state, told(plan.publish[0], "lost")).finished is None
    assert step(graph, plan.state, told(plan.publish[0], "failed")).finished is not None
    assert step(graph, plan.state, told(plan.publish[0], "timed_out")).finished is not None
    assert step(graph, plan.state, told(plan.publish[0], "revoked")).finished is not None


def test_jitter_spreads_retries_and_is_the_same_for_whoever_computes_it() -> None:
    graph, state = begin(
        group=[mapped({"range": {"end": 50}})],
        taskDefaults={"retry": {"limit": 1, "backoff": {"initialSeconds": 10, "jitterPercent": 20}}},
    )
    plan = step(graph, state)
    failed = [told(each, "failed") for each in plan.publish]
    once, again = step(graph, plan.state, *failed), step(graph, plan.state, *reversed(failed))
    times = sorted(each.at for each in once.state.steps["s0"].due)
    assert times == sorted(each.at for each in again.state.steps["s0"].due)
    assert NOW + timedelta(seconds=8) <= times[0] < times[-1] <= NOW + timedelta(seconds=12)
    assert len(set(times)) > 40


def test_celerys_own_retry_is_the_same_attempt() -> None:
    graph, state = begin(**CHAIN)
    plan = step(graph, state)
    started = step(graph, plan.state, told(plan.publish[0], "started"))
    assert started.state.steps["s0"].items == bytes((Code.RUNNING,))
    retrying = step(graph, started.state, told(plan.publish[0], "retrying"))
    assert retrying == Plan(plan.state)


def test_what_is_old_repeated_or_unknown_changes_nothing() -> None:
    graph, state = begin(chain=[t("a", retry={"limit": 1, "backoff": {"initialSeconds": 0}})])
    first = step(graph, state)
    second = step(graph, first.state, told(first.publish[0], "failed"))
    stale = [
        told(first.publish[0], "failed"),
        told(first.publish[0], value=1),
        told(first.publish[0], "started"),
        Outcome("s0", 1, 1, "succeeded", NOW),
        Outcome("s0", -1, 1, "succeeded", NOW),
        Outcome("s0", 0, 0, "succeeded", NOW),
        Outcome("s0", 0, 3, "succeeded", NOW),
        Outcome("s9", 0, 1, "succeeded", NOW),
    ]
    for outcome in stale:
        plan = step(graph, second.state, outcome)
        assert plan == Plan(second.state)
        assert plan.state is second.state
    done = step(graph, second.state, told(second.publish[0], value=1))
    assert step(graph, done.state, told(second.publish[0], "failed")).state is done.state


def test_an_attempt_that_an_earlier_operator_published_counts() -> None:
    graph, state = begin(chain=[t("a", retry={"limit": 1})])
    plan = step(graph, state)
    plan = step(graph, plan.state, Outcome("s0", 0, 2, "succeeded", NOW))
    assert plan.finished is not None
    assert plan.finished.succeeded
    assert plan.state.steps["s0"].attempts == {0: 2}


def test_a_retry_that_was_overtaken_does_not_bring_the_next_one_forward() -> None:
    graph, state = begin(chain=[t("a", retry={"limit": 2, "backoff": NO_JITTER})])
    plan = step(graph, state)
    plan = step(graph, plan.state, told(plan.publish[0], "failed"))
    plan = step(graph, plan.state, Outcome("s0", 0, 2, "failed", NOW))
    first, second = NOW + timedelta(seconds=4), NOW + timedelta(seconds=10)
    plan = step(graph, plan.state, now=first)
    assert plan == Plan(plan.state, wake_at=second)
    assert step(graph, plan.state, now=second).publish == (message("s0", "a", attempt=3),)


def test_of_two_attempts_told_at_once_both_count_whichever_stands_first() -> None:
    graph, state = begin(chain=[t("a", retry={"limit": 1})])
    state = step(graph, state).state
    outcomes = (Outcome("s0", 0, 2, "succeeded", NOW), Outcome("s0", 0, 1, "failed", NOW, exception="E"))
    plan = step(graph, state, *outcomes)
    assert plan == step(graph, state, *reversed(outcomes))
    assert plan.state.failures == (Failure("s0", 0, 1, "E", "", "", NOW),)


# ------------------------------------------------------------------------------------------------- failure and bounds


def test_fail_fast_revokes_what_waits_lets_run_what_runs_and_skips_the_rest() -> None:
    graph, state = begin(
        dag={
            "steps": [
                {"name": "bad", **t()},
                {"name": "wide", **mapped({"range": {"end": 4}}, parallelism=2)},
                {"name": "next", "dependsOn": [{"step": "wide"}], **t()},
                {"name": "clean", "dependsOn": [{"step": "bad", "condition": "Finished"}], **t("clean")},
                {"name": "after", "dependsOn": [{"step": "clean"}], **t("after")},
                {"name": "never", "dependsOn": [{"step": "bad"}], **t()},
                {"name": "tail", "dependsOn": [{"step": "never", "condition": "Finished"}], **t("tail")},
                {"name": "other", "dependsOn": [{"step": "wide", "condition": "Finished"}], **t("other")},
            ]
        }
    )
    plan = step(graph, state)
    bad, running, queued = plan.publish
    plan = step(graph, plan.state, told(running, "started"), told(bad, "failed", exception="E", message="m"))
    assert plan == Plan(
        plan.state, publish=(message("clean", "clean"), message("tail", "tail")), revoke=(queued.identity.task_id,)
    )
    clean, tail = plan.publish
    assert plan.state.steps["wide"].items == bytes((Code.RUNNING, Code.REVOKED, Code.SKIPPED, Code.SKIPPED))
    plan = step(graph, plan.state, told(running), told(clean, value=1), told(tail, value=1))
    assert plan.publish == (message("after", "after"),)
    plan = step(graph, plan.state, told(plan.publish[0], value=1))
    assert plan.finished == Finish(succeeded=False, reason=Reason.TASK_FAILED, message="step 'bad' failed: E: m")
    assert phases(plan.state) == {
        "bad": "Failed",
        "wide": "Revoked",
        "next": "Skipped",
        "clean": "Succeeded",
        "after": "Succeeded",
        "never": "Skipped",
        "tail": "Succeeded",
        "other": "Skipped",
    }


def test_continue_goes_on_with_everything_that_can_run() -> None:
    graph, state = begin(
        dag={
            "steps": [
                {"name": "wide", **mapped({"range": {"end": 3}}, parallelism=1)},
                {"name": "next", "dependsOn": [{"step": "wide"}], **t()},
                {"name": "other", **t("other")},
            ]
        }
    )
    policy = RunPolicy(failure_policy="Continue")
    plan = step(graph, state, policy=policy)
    other, first = plan.publish
    plan = step(graph, plan.state, told(first, "failed", exception="E"), policy=policy)
    assert plan == Plan(plan.state, publish=(message("wide", "m", 1, index=1),))
    plan = step(graph, plan.state, told(plan.publish[0]), policy=policy)
    plan = step(graph, plan.state, told(plan.publish[0]), told(other, value=1), policy=policy)
    assert plan.finished == Finish(
        succeeded=False,
        reason=Reason.TOO_MANY_ITEMS_FAILED,
        message="step 'wide': 1 of 3 items failed, 0 allowed; item 0: E",
    )
    assert phases(plan.state) == {"wide": "Failed", "next": "Skipped", "other": "Succeeded"}


def test_a_step_that_fails_as_it_begins_stops_those_that_would_begin_with_it() -> None:
    after = [{"step": "a"}]
    graph, state = begin(
        dag={
            "steps": [
                {"name": "a", **t()},
                {"name": "b", "dependsOn": after, **t()},
                {"name": "c", "dependsOn": after, **mapped({"resultOf": {"step": "a"}})},
            ]
        }
    )
    plan = step(graph, state)
    plan = step(graph, plan.state, told(plan.publish[0], value=3))
    assert plan.publish == ()
    assert phases(plan.state) == {"a": "Succeeded", "b": "Revoked", "c": "Failed"}
    assert plan.finished is not None


def test_a_failed_combine_ends_its_reduce_under_either_policy() -> None:
    for failure_policy in ("FailFast", "Continue"):
        graph, state = begin(
            mapReduce={
                "items": {"range": {"end": 4}},
                "map": {"name": "m"},
                "combine": {"name": "c"},
                "reduce": {"name": "r"},
                "fanIn": 2,
            }
        )
        policy = RunPolicy.model_validate({"failurePolicy": failure_policy})
        plan = step(graph, state, policy=policy)
        plan = step(graph, plan.state, *(told(each) for each in plan.publish), policy=policy)
        one, two = plan.publish
        plan = step(graph, plan.state, told(one), told(two, "failed", exception="E"), policy=policy)
        assert plan.finished == Finish(
            succeeded=False, reason=Reason.TASK_FAILED, message="step 'reduce' failed: call 1: E"
        )


def test_a_step_that_may_fail_fails_only_what_depends_on_it() -> None:
    graph, state = begin(
        dag={
            "steps": [
                {"name": "a", "allowFailure": True, **t()},
                {"name": "b", "dependsOn": [{"step": "a"}], **t()},
                {"name": "c", "dependsOn": [{"step": "a", "condition": "Failed"}], **t("c")},
            ]
        }
    )
    plan = step(graph, state)
    plan = step(graph, plan.state, told(plan.publish[0], "failed"))
    assert plan.publish == (message("c", "c"),)
    plan = step(graph, plan.state, told(plan.publish[0], value=1))
    assert plan.finished == Finish(
        succeeded=True,
        reason=Reason.COMPLETED_WITH_FAILURES,
        message="1 tasks succeeded; 1 failed as the spec allows (steps a)",
    )


def test_a_result_of_a_step_that_failed_is_not_there() -> None:
    graph, state = begin(
        dag={
            "steps": [
                {"name": "a", "allowFailure": True, **t()},
                {
                    "name": "b",
                    "dependsOn": [{"step": "a", "condition": "Finished"}],
                    **t("b", {"resultOf": {"step": "a"}}),
                },
            ]
        }
    )
    plan = step(graph, state)
    plan = step(graph, plan.state, told(plan.publish[0], "failed"))
    assert plan.finished == Finish(
        succeeded=False,
        reason=Reason.TASK_FAILED,
        message="step 'b' failed: ResultUnavailable: the result of step 'a' is not there: it is Failed",
    )


def test_lost_items_are_told_apart_from_failed_ones() -> None:
    graph, state = begin(group=[mapped({"range": {"end": 2}})])
    plan = step(graph, state)
    plan = step(graph, plan.state, *(told(each, "lost") for each in plan.publish))
    assert plan.finished == Finish(
        succeeded=False,
        reason=Reason.TASKS_LOST,
        message="step 's0': 2 of 2 items failed, 0 allowed; item 0: WorkerLostError: its worker died",
    )


def test_the_deadline_gives_up_everything() -> None:
    graph, state = begin(
        chain=[mapped({"range": {"end": 3}}, parallelism=2), t()], outputs=[{"name": "o", "valueFrom": {"result": "$"}}]
    )
    policy = RunPolicy(active_deadline_seconds=60)
    deadline = NOW + timedelta(seconds=60)
    plan = step(graph, state, policy=policy)
    assert plan.wake_at == deadline
    first, second = plan.publish
    plan = step(graph, plan.state, told(first, "started"), policy=policy, now=deadline - timedelta(seconds=1))
    assert plan == Plan(plan.state, wake_at=deadline)
    plan = step(graph, plan.state, policy=policy, now=deadline)
    finish = Finish(
        succeeded=False,
        reason=Reason.DEADLINE_EXCEEDED,
        message="activeDeadlineSeconds (60) passed when 0 of 4 tasks had succeeded",
    )
    revoked = (second.identity.task_id, first.identity.task_id)
    assert plan == Plan(plan.state, revoke=revoked, finished=finish)
    assert plan.state.steps["s0"].items == bytes((Code.REVOKED, Code.REVOKED, Code.SKIPPED))
    assert phases(plan.state) == {"s0": "Revoked", "s1": "Skipped"}
    late = step(graph, plan.state, told(first), policy=policy, now=deadline)
    assert late == Plan(plan.state, finished=finish)


def test_a_run_that_ends_at_its_deadline_has_not_missed_it() -> None:
    graph, state = begin(chain=[t()])
    policy = RunPolicy(active_deadline_seconds=60)
    plan = step(graph, state, policy=policy)
    plan = step(graph, plan.state, told(plan.publish[0], value=1), policy=policy, now=NOW + timedelta(hours=1))
    assert plan.finished is not None
    assert plan.finished.succeeded


def test_a_suspended_run_publishes_nothing_and_goes_on_with_what_runs() -> None:
    graph, state = begin(chain=[t("a", retry={"limit": 1, "backoff": NO_JITTER}), t("b")])
    assert step(graph, state, suspended=True) == Plan(state)
    running = step(graph, state)
    failed = step(graph, running.state, told(running.publish[0], "failed"), suspended=True)
    assert failed == Plan(failed.state)
    hour = NOW + timedelta(hours=1)
    due = step(graph, failed.state, suspended=True, now=hour)
    assert due == Plan(due.state)
    resumed = step(graph, due.state, now=hour)
    assert resumed.publish == (message("s0", "a", attempt=2),)
    ended = step(graph, resumed.state, told(resumed.publish[0], value=1), suspended=True, now=hour)
    assert ended == Plan(ended.state)
    assert phases(ended.state) == {"s0": "Succeeded", "s1": "Pending"}


def test_publishing_stays_within_plan_run_and_map() -> None:
    graph, state = begin(
        group=[mapped({"range": {"end": 2000}}), mapped({"range": {"end": 9}}, parallelism=3), t("single")]
    )
    policy = RunPolicy(parallelism=1200)
    sent: list[TaskMessage] = []
    more: list[bool] = []
    plan = step(graph, state, policy=policy)
    while plan.publish:
        assert len(plan.publish) <= PLAN_MESSAGES
        sent.extend(plan.publish)
        more.append(plan.more)
        plan = step(graph, plan.state, policy=policy)
    assert more == [True, True, False]
    assert sent[0].identity.step == "s2"
    by_step = {name: sum(each.identity.step == name for each in sent) for name in ("s0", "s1", "s2")}
    assert by_step == {"s0": 1199, "s1": 0, "s2": 1}
    plan = step(graph, plan.state, *(told(each) for each in sent[:1100]), policy=policy)
    assert (len(plan.publish), plan.more) == (500, True)


def test_a_maps_own_parallelism_is_a_window_that_moves() -> None:
    graph, state = begin(group=[mapped({"range": {"end": 9}}, parallelism=3)])
    plan = step(graph, state)
    assert [each.args for each in plan.publish] == [(0,), (1,), (2,)]
    assert not plan.more
    plan = step(graph, plan.state, told(plan.publish[1]))
    assert [each.args for each in plan.publish] == [(3,)]


def test_a_wide_map_of_bad_items_is_failed_in_bounded_plans() -> None:
    graph, state = begin(group=[mapped({"range": {"end": 1200}}, {"item": "$.no"}, maxFailed=1200)])
    plan = step(graph, state)
    assert (plan.state.steps["s0"].counts[Code.FAILED], plan.more) == (PLAN_MESSAGES, True)
    plan = step(graph, step(graph, plan.state).state)
    assert plan.finished is not None
    assert plan.finished.message == "0 tasks succeeded; 1200 failed as the spec allows"


def test_a_step_with_the_lowest_failed_index_is_blamed_in_whatever_order_they_failed() -> None:
    graph, state = begin(group=[mapped({"range": {"end": 3}}, maxFailed=3)])
    plan = step(graph, state)
    failed = [told(each, "failed", exception=f"E{each.identity.index}") for each in plan.publish]
    assert step(graph, plan.state, *failed) == step(graph, plan.state, *reversed(failed))
    assert step(graph, plan.state, *reversed(failed)).state.steps["s0"].cause == Cause(0, 1, "E0", "")


def test_texts_of_exceptions_are_cut_printable_and_without_credentials() -> None:
    graph, state = begin(chain=[t()])
    plan = step(graph, state)
    cases = {
        "a\x00b\ud800": "a\ufffdb\ufffd",
        "no redis://me:secret@host/0": "no redis://***@host/0",
        "x" * 300: "x" * 256,
        "redis://me:" + "s" * 5000 + "@host": "redis://***",
    }
    for raw, kept in cases.items():
        failed = step(graph, plan.state, told(plan.publish[0], "failed", message=raw))
        assert failed.state.failures[0].message == kept


def test_only_the_newest_failures_are_kept() -> None:
    graph, state = begin(group=[mapped({"range": {"end": 30}}, maxFailed=30)])
    plan = step(graph, state)
    for at, each in enumerate(plan.publish[::-1]):
        plan = step(graph, plan.state, told(each, "failed", time=NOW + timedelta(seconds=at)))
    assert [each.index for each in plan.state.failures] == list(range(19, -1, -1))


# ------------------------------------------------------------------------------------------------------------ outputs


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
    assert plan.finished.message.startswith("1 tasks succeeded; output 'o': ")
    assert problem in plan.finished.message or "cannot be read" in plan.finished.message


# ------------------------------------------------------------------------------------------------------------- lookups


def test_outstanding_gives_what_is_published_in_slices() -> None:
    graph, state = begin(group=[t("a", lostAfterSeconds=7), mapped({"range": {"end": 4}})])
    plan = step(graph, state)
    _, one, two, *_ = plan.publish
    state = step(graph, plan.state, told(one), told(two, "started")).state
    every = [
        Outstanding("s0", 0, 1, attempt_id("s0"), running=False, lost_after=7),
        Outstanding("s1", 1, 1, attempt_id("s1", 1), running=True, lost_after=60),
        Outstanding("s1", 2, 1, attempt_id("s1", 2), running=False, lost_after=60),
        Outstanding("s1", 3, 1, attempt_id("s1", 3), running=False, lost_after=60),
    ]
    assert list(outstanding(graph, state, uid=UID)) == every
    assert list(outstanding(graph, state, uid=UID, limit=2)) == every[:2]
    assert list(outstanding(graph, state, uid=UID, limit=9, after=("s1", 1))) == every[2:]
    assert list(outstanding(graph, state, uid=UID, after=("s1", 3))) == []


def test_a_run_is_part_of_every_identity() -> None:
    graph = graph_of(chain=[t("a"), t("b")])
    plan = step(graph, initial_state(graph, run=3, now=NOW))
    plan = step(graph, plan.state, told(plan.publish[0]))
    identity = TaskIdentity(UID, 3, "s1", 0, 1)
    assert plan.publish == (TaskMessage(identity, "b", (ResultReference(UID, 3, "s0").to_json(),)),)


def test_plans_never_change_what_they_are_given() -> None:
    graph, state = begin(group=[mapped({"range": {"end": 3}})])
    before = dataclasses.replace(state)
    plan = step(graph, state)
    assert state == before
    middle = dataclasses.replace(plan.state)
    step(graph, plan.state, *(told(each) for each in plan.publish), now=datetime.fromtimestamp(0, tz=NOW.tzinfo))
    assert plan.state == middle
