"""Plans, whole, for what each rule says: what is published when, with which values, and how much at a time."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import pytest

from celery_operator.api.conditions import Reason
from celery_operator.api.workflow import OutputValue, RunPolicy
from celery_operator.domain.messages import TaskMessage
from celery_operator.domain.workflows.lookups import Outstanding, outstanding
from celery_operator.domain.workflows.plan import Fetch, Finish, Observed, Plan
from celery_operator.domain.workflows.publish import PLAN_MESSAGES
from celery_operator.domain.workflows.state import Code, Failure, initial_state
from celery_patterns.protocol import REFERENCE_KEY, ResultReference, TaskIdentity
from unit.domain.workflows.shorthand import attempt_id, begin, mapped, message, reference, t
from unit.domain.workflows.simulation import NOW, UID, graph_of, step, told

# ---------------------------------------------------------------------------------------------------- from task to task


def test_a_chain_publishes_one_task_after_the_other_and_then_it_has_finished() -> None:
    graph, state = begin(
        chain=[t("a"), t("b", queue="hot", timeLimitSeconds=9, softTimeLimitSeconds=8)],
        outputs=[{"name": "all", "valueFrom": {"result": "$"}}],
    )
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


# -------------------------------------------------------------------------------------------------------- dynamic items


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


# --------------------------------------------------------------------------------------------------------------- bounds


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


# ------------------------------------------------------------------------------------------------------------- any plan


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
