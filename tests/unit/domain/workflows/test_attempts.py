"""Attempts: who is asked for again and when, and what is told of attempts late, twice or of none."""

from __future__ import annotations

from datetime import timedelta

from celery_operator.api.conditions import Reason
from celery_operator.domain.workflows.plan import Finish, Outcome, Plan
from celery_operator.domain.workflows.state import Code, Due, Failure
from unit.domain.workflows.shorthand import NO_JITTER, begin, mapped, message, t
from unit.domain.workflows.simulation import NOW, step, told


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
    graph, state = begin(chain=[t("a"), t("b")])
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
