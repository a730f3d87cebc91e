"""What a failure, a deadline or a suspension means for the rest of the run, and what is kept of it."""

from __future__ import annotations

from datetime import timedelta

from celery_operator.api.conditions import Reason
from celery_operator.api.workflow import RunPolicy
from celery_operator.domain.workflows.plan import Finish, Plan
from celery_operator.domain.workflows.state import Cause, Code
from unit.domain.workflows.shorthand import NO_JITTER, begin, mapped, message, phases, t
from unit.domain.workflows.simulation import NOW, step, told


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
        message="1 task succeeded; 1 failed as the spec allows (steps a)",
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
