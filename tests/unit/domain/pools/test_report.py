"""A pool's status: kstatus-correct, in Kubernetes' words where Kubernetes refuses, with unknown left out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celery_operator.api.conditions import Condition, Reason
from celery_operator.api.worker_pool import WorkerPoolSpec, WorkerPoolStatus
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools.observation import BrokerTrouble, ObservedPool
from celery_operator.domain.pools.plan import PoolMemory, plan_pool
from celery_operator.domain.pools.report import Subject, Verdict, differs_only_in_counts, pool_status
from celery_operator.domain.pools.scaling import Recommendation, ScalingMemory
from fakes.agents import busy_worker, idle_worker
from fakes.pools import HASH, idle_pods, observed, pod, pool_spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
QUIET = PoolMemory(ScalingMemory((Recommendation(NOW - timedelta(hours=1), 0),), NOW - timedelta(hours=1)))


def status(
    seen: ObservedPool,
    spec: WorkerPoolSpec | None = None,
    previous: WorkerPoolStatus | None = None,
    verdict: Verdict = Verdict(),  # noqa: B008 - frozen
) -> WorkerPoolStatus:
    wanted = spec or pool_spec()
    plan = plan_pool(wanted, seen, QUIET, manifest_hash=HASH, now=NOW)
    return pool_status(Subject("etl", 4, previous), wanted, seen, plan, verdict, now=NOW)


def told(reported: WorkerPoolStatus, kind: str) -> tuple[str, str, str]:
    [condition] = [each for each in reported.conditions if each.type == kind]
    return condition.status, condition.reason, condition.message


def brief(reported: WorkerPoolStatus) -> dict[str, str]:
    return {each.type: f"{each.status} {each.reason}" for each in reported.conditions}


def deployment(seen: ObservedPool, **fields: Any) -> ObservedPool:
    assert seen.deployment is not None
    return replace(seen, deployment=replace(seen.deployment, **fields))


def test_a_pool_that_does_what_it_should() -> None:
    reported = status(observed(pod("a", busy_worker(2, slots=4)), pod("b", busy_worker(1, slots=4)), waiting=1))
    assert reported.to_resource() | {"conditions": brief(reported)} == {
        "observedGeneration": 4,
        "replicas": 2,
        "readyReplicas": 2,
        "desiredReplicas": 4,
        "drainingReplicas": 0,
        "selector": "celery-operator.dev/pool=etl",
        "slots": {"total": 8, "busy": 3, "reserved": 0, "scheduled": 0},
        "queues": [{"name": "celery", "waiting": 1}],
        "waiting": 1,
        "autoscaling": {"mode": "Native", "recommendedReplicas": 4},
        "conditions": {
            "Accepted": "True Accepted",
            "Ready": "True MinimumReplicasReady",
            "Reconciling": "False Settled",
            "Stalled": "False MakingProgress",
            "BrokerReachable": "True Connected",
            "ScalingActive": "True FollowingDemand",
            "ScalingLimited": "False WithinRange",
            "DrainSupported": "True AgentReports",
        },
    }
    assert {each.observed_generation for each in reported.conditions} == {4}


def test_what_is_unknown_is_left_out() -> None:
    trouble = BrokerTrouble(Reason.AUTHENTICATION_FAILED, "redis://***@redis: wrong password")
    reported = status(observed(pod("a", ready=True), waiting=None, broker_trouble=trouble))
    assert not {"slots", "waiting"} & reported.to_resource().keys()
    assert reported.queues == []
    assert told(reported, "BrokerReachable") == ("False", "AuthenticationFailed", "redis://***@redis: wrong password")
    assert told(reported, "ScalingActive") == (
        "False",
        "DemandUnknown",
        "no answer from the broker, a: replicas are not reduced",
    )
    assert told(reported, "DrainSupported")[:2] == ("Unknown", "NotChecked")


def test_no_workers_means_no_slots_and_not_unknown_ones() -> None:
    slots = status(observed()).slots
    assert slots is not None
    assert slots.total == 0


@pytest.mark.parametrize(
    ("ready", "spec", "expected"),
    [
        (2, pool_spec(replicas=2), "True MinimumReplicasReady"),
        (1, pool_spec(replicas=2), "False ReplicasNotReady"),
        (0, pool_spec(), "True MinimumReplicasReady"),
        (1, pool_spec(autoscaling={"minReplicas": 2, "maxReplicas": 3}), "False ReplicasNotReady"),
        (2, pool_spec(autoscaling={"minReplicas": 2, "maxReplicas": 3}), "True MinimumReplicasReady"),
    ],
)
def test_a_pool_is_ready_when_its_smallest_number_of_workers_is(
    ready: int, spec: WorkerPoolSpec, expected: str
) -> None:
    assert brief(status(deployment(observed(*idle_pods(2)), ready=ready), spec))["Ready"] == expected


def test_pods_that_kubernetes_refuses_are_reported_in_its_words() -> None:
    reported = status(deployment(observed(replicas=2), refusal="exceeded quota: pods=0"), pool_spec(replicas=2))
    words = ("PodsRefused", "exceeded quota: pods=0")
    assert told(reported, "Ready") == ("False", *words)
    assert told(reported, "Stalled") == ("True", *words)
    assert told(reported, "Reconciling")[0] == "False"


def test_a_deployment_that_kubernetes_refuses_too() -> None:
    reported = status(observed(), verdict=Verdict(None, "memory: Invalid value"))
    assert told(reported, "Ready") == ("False", "PodsRefused", "memory: Invalid value")


def test_what_keeps_pods_from_starting_is_told_even_where_none_is_needed_at_least() -> None:
    broken = pod("a", started=False, trouble="container worker: ImagePullBackOff: not found")
    reported = status(observed(broken, waiting=1))
    assert told(reported, "Ready") == (
        "False",
        "ReplicasNotReady",
        "0 of 1 needed workers are ready; pod a: container worker: ImagePullBackOff: not found",
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "False Settled"),
        ({"generation": 2}, "True Progressing"),
        ({"updated": 1}, "True Progressing"),
        ({"manifest_hash": "old"}, "True Progressing"),
        ({"ready": 1}, "True Progressing"),
    ],
)
def test_a_pool_reconciles_until_its_deployment_is_what_the_spec_says(fields: dict[str, Any], expected: str) -> None:
    assert (
        brief(status(deployment(observed(*idle_pods(2)), **fields), pool_spec(replicas=2)))["Reconciling"] == expected
    )


def test_a_rollout_that_is_overdue_is_stalled() -> None:
    reported = status(deployment(observed(*idle_pods(2)), overdue="has timed out progressing"))
    assert told(reported, "Stalled") == ("True", "ReplicasNotReady", "has timed out progressing")


def test_a_spec_that_is_not_accepted_says_why_once() -> None:
    seen = observed(*idle_pods(1), waiting=None)
    error = SpecError(Reason.APP_NOT_FOUND, "spec.appRef: there is no CeleryApp default/shop")
    reported = pool_status(Subject("etl", 4), None, seen, None, Verdict(error), now=NOW)
    assert brief(reported) == {
        "Accepted": "False AppNotFound",
        "Ready": "False NotAccepted",
        "Reconciling": "False NotAccepted",
        "Stalled": "True NotAccepted",
        "BrokerReachable": "Unknown NotChecked",
        "ScalingActive": "Unknown NotChecked",
        "ScalingLimited": "Unknown NotChecked",
        "DrainSupported": "Unknown NotChecked",
    }
    assert (reported.replicas, reported.desired_replicas, reported.selector) == (1, 1, "celery-operator.dev/pool=etl")


def test_stock_workers_say_what_they_cannot() -> None:
    reported = status(observed(pod("a")), pool_spec(replicas=1, worker={"agent": "None"}))
    assert told(reported, "DrainSupported")[:2] == ("False", "AgentMissing")


def test_a_pool_that_has_shrunk_to_zero_keeps_what_its_workers_said() -> None:
    said = Condition(
        type="DrainSupported", status="True", reason="AgentReports", last_transition_time="2026-11-22T11:00:00Z"
    )
    assert (
        brief(status(observed(), previous=WorkerPoolStatus(conditions=[said])))["DrainSupported"] == "True AgentReports"
    )
    assert brief(status(observed()))["DrainSupported"] == "Unknown NotChecked"


def test_a_bound_and_the_last_scaling_are_told() -> None:
    previous = WorkerPoolStatus(desired_replicas=1)
    reported = status(observed(*idle_pods(1), waiting=50), previous=previous)
    assert told(reported, "ScalingLimited") == ("True", "TooManyReplicas", "demand asks for more than maxReplicas (5)")
    assert reported.autoscaling is not None
    assert reported.autoscaling.limited_by == "TooManyReplicas"
    assert reported.autoscaling.last_scale_time == "2026-11-22T12:00:00Z"


def test_mere_counts_are_told_from_everything_else() -> None:
    spec, busy = pool_spec(worker={"concurrency": 9}), busy_worker(2, slots=9)
    one = status(observed(pod("a", busy_worker(1, slots=9)), waiting=0), spec)
    two = status(observed(pod("a", busy), waiting=0), spec, previous=one)
    three = status(observed(pod("a", busy), pod("b", idle_worker()), waiting=0), spec, previous=one)
    assert one != two
    assert (differs_only_in_counts(one, two), differs_only_in_counts(one, three)) == (True, False)
