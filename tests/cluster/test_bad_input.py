"""What only the operator can see: a condition with reason and event, at once, and nobody else is disturbed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import pytest

from servers import eventually
from support import manifests
from support.api import Manifest
from support.cluster import Cluster
from support.manifests import on_item, task
from support.playground import BACKEND, BROKER, Playground, condition, seconds_between
from support.release import Release
from support.shared_ground import ground_with_worker

SHOWN_SECONDS = 1.0
"""The promise, from the moment at which the mistake can be observed: here, from the object's creation."""
CONNECT_SECONDS = 3.0
"""The promise allows a connection attempt this long before it counts as failed."""
RUN_SECONDS = 30.0
ADD = {"task": task("examples.add", 4, 4)}
NOBODY = "redis://nobody.celery-operator-nowhere.svc.cluster.local:6379/0"
"""A name that DNS does not know."""


@pytest.fixture(scope="module")
def shared(cluster: Cluster, release: Release) -> Iterator[Playground]:
    """A namespace with a healthy app and a worker, beside which each test does something wrong."""
    with ground_with_worker(cluster, release, "bad-input", slots=2) as fresh:
        yield fresh


@pytest.fixture
def healthy(shared: Playground, operator: Release, request: pytest.FixtureRequest) -> Iterator[Playground]:
    """The shared namespace while a healthy workflow runs in it, which has to end well whatever the test does."""
    del operator
    name = f"healthy-{crc32(request.node.name.encode())}"
    shared.create_workflow(
        name,
        mapReduce={
            "items": {"range": {"start": 0, "end": 6}},
            "parallelism": 1,
            "map": on_item("examples.ledger.record", 0.3),
            "reduce": {"name": "examples.total"},
        },
        outputs=[manifests.output("sum")],
    )
    yield shared
    ended = shared.wait_ended(name, within=RUN_SECONDS)
    assert condition(ended, "Succeeded")["status"] == "True"
    assert shared.outputs(name) == {"sum": 15}
    pool = shared.get("CeleryWorkerPool", "pool")
    assert condition(pool, "Ready")["status"] == "True"


# ------------------------------------------------------------------------------------------------- workflows


def test_a_cycle_is_not_accepted(healthy: Playground) -> None:
    steps = [
        {"name": "hen", "dependsOn": [{"step": "egg"}], **ADD},
        {"name": "egg", "dependsOn": [{"step": "hen"}], **ADD},
    ]
    said = _refused(healthy, "CeleryWorkflow", "cycle", "CycleDetected", dag={"steps": steps})
    assert "hen" in said
    assert "egg" in said


def test_a_result_of_a_step_that_does_not_run_before_is_not_accepted(healthy: Playground) -> None:
    uses = {
        "name": "uses",
        "task": {"name": "examples.total", "args": [{"valueFrom": {"resultOf": {"step": "other"}}}]},
    }
    said = _refused(
        healthy, "CeleryWorkflow", "sideways", "UnknownStep", dag={"steps": [{"name": "other", **ADD}, uses]}
    )
    assert "other" in said


def test_a_parameter_that_is_not_defined_is_not_accepted(healthy: Playground) -> None:
    unknown = {"task": {"name": "examples.add", "args": [{"valueFrom": {"parameter": "rate"}}, {"value": 1}]}}
    assert "rate" in _refused(healthy, "CeleryWorkflow", "parameter", "InvalidSpec", chain=[unknown])


def test_a_task_that_no_worker_knows_fails_the_run(healthy: Playground) -> None:
    failure = _failed(healthy, "unknown-task", {"task": task("examples.does_not_exist")})
    assert failure["exception"] == "NotRegistered"


def test_a_result_that_is_not_json_fails_the_run(healthy: Playground) -> None:
    failure = _failed(healthy, "not-json", {"task": task("examples.not_json")})
    assert "object" in failure["message"] or "JSON" in failure["message"]


def test_a_chain_longer_than_names_allow_is_still_named_in_status(healthy: Playground) -> None:
    """The longest name of a workflow works to its end, checkpoint and all."""
    name = "w" * 47
    healthy.create_workflow(name, chain=[{"task": task("examples.sleep", 3)}])
    ended = healthy.wait_ended(name, within=RUN_SECONDS)
    assert condition(ended, "Succeeded")["status"] == "True"


# ----------------------------------------------------------------------------------------- apps that are missing


@pytest.mark.parametrize("kind", ["CeleryWorkerPool", "CeleryWorkflow"])
def test_an_app_that_does_not_exist_is_named_and_heals(healthy: Playground, kind: str) -> None:
    name = f"early-{kind.lower()}"
    work = {"replicas": 0} if kind == "CeleryWorkerPool" else {"chain": [ADD]}
    assert f"{name}-app" in _refused(healthy, kind, name, "AppNotFound", app=f"{name}-app", **work)
    healthy.create_app(f"{name}-app")
    healthy.wait_condition(kind, name, "Accepted", "True", within=15)


@pytest.mark.parametrize("missing", ["Secret", "key"])
def test_a_missing_secret_or_key_is_named_and_heals(healthy: Playground, missing: str) -> None:
    name = f"secretive-{missing.lower()}"
    if missing == "key":
        healthy.api.create(_secret(healthy, name, {"other": "value"}))
    reference = {"urlFrom": {"secretKeyRef": {"name": name, "key": "broker"}}}
    backend = {"url": healthy.redis_url(BACKEND)}
    healthy.api.create(manifests.app(healthy.name, name, broker=reference, backend=backend))
    said = _shown(healthy, "CeleryApp", name, "Accepted", "SecretNotFound")
    assert name in said
    assert "broker" in said
    assert name in _refused(healthy, "CeleryWorkerPool", name, "SecretNotFound", app=name, replicas=0)
    assert name in _refused(healthy, "CeleryWorkflow", name, "SecretNotFound", app=name, chain=[ADD])
    url = {"broker": healthy.redis_url(BROKER)}
    if missing == "key":
        healthy.patch("Secret", name, {"stringData": url})
    else:
        healthy.api.create(_secret(healthy, name, url))
    for kind in ("CeleryApp", "CeleryWorkerPool", "CeleryWorkflow"):
        healthy.wait_condition(kind, name, "Accepted", "True", within=15)
    ended = healthy.wait_ended(name, within=RUN_SECONDS)
    assert condition(ended, "Succeeded")["status"] == "True"


# ------------------------------------------------------------------------------------------------ broker URLs


@pytest.mark.parametrize("url", ["not a url", "gopher://redis:6379/0", "redis://redis:notaport/0"])
def test_a_broker_url_that_cannot_be_read_is_not_accepted(healthy: Playground, url: str) -> None:
    name = f"unreadable-{crc32(url.encode())}"
    backend = {"url": healthy.redis_url(BACKEND)}
    healthy.api.create(manifests.app(healthy.name, name, broker={"url": url}, backend=backend))
    _shown(healthy, "CeleryApp", name, "Accepted", "UnsupportedBroker")
    _refused(healthy, "CeleryWorkerPool", name, "UnsupportedBroker", app=name, replicas=0)
    _refused(healthy, "CeleryWorkflow", name, "UnsupportedBroker", app=name, chain=[ADD])


def test_an_unreadable_url_of_a_secret_is_refused_without_being_shown(healthy: Playground) -> None:
    name = "unreadable-secret"
    healthy.api.create(_secret(healthy, name, {"broker": "redis://user:hunter2@redis:notaport/0"}))
    reference = {"urlFrom": {"secretKeyRef": {"name": name, "key": "broker"}}}
    backend = {"url": healthy.redis_url(BACKEND)}
    healthy.api.create(manifests.app(healthy.name, name, broker=reference, backend=backend))
    _shown(healthy, "CeleryApp", name, "Accepted", "UnsupportedBroker")
    shown = healthy.cluster.kubectl("get", "celapp", name, "-n", healthy.name, "-o", "yaml")
    shown += healthy.cluster.kubectl("get", "events", "-n", healthy.name, "-o", "yaml")
    assert "hunter2" not in shown
    assert "hunter2" not in Release(healthy.cluster).logs(lines=2000)


def test_a_broker_that_cannot_be_reached_is_a_condition_and_holds_everything(healthy: Playground) -> None:
    name = "unreachable"
    backend = {"url": healthy.redis_url(BACKEND)}
    healthy.api.create(manifests.app(healthy.name, name, broker={"url": NOBODY}, backend=backend))
    within = CONNECT_SECONDS + SHOWN_SECONDS
    said = _shown(healthy, "CeleryApp", name, "BrokerReachable", "ConnectionFailed", within=within)
    assert "nobody.celery-operator-nowhere" in said
    healthy.create_workflow(name, app=name, chain=[ADD])
    healthy.wait_condition("CeleryWorkflow", name, "Stalled", "True", within=10)
    assert condition(healthy.get("CeleryWorkflow", name), "Succeeded")["status"] == "Unknown"
    healthy.delete("CeleryWorkflow", name)


def test_a_pool_whose_broker_cannot_be_reached_says_that_demand_is_unknown(healthy: Playground) -> None:
    name = "blind"
    backend = {"url": healthy.redis_url(BACKEND)}
    healthy.api.create(manifests.app(healthy.name, name, broker={"url": NOBODY}, backend=backend))
    healthy.create_pool(name, app=name, autoscaling=manifests.autoscaling(least=1, most=2, idle_timeout=0))
    within = CONNECT_SECONDS + SHOWN_SECONDS
    _shown(healthy, "CeleryWorkerPool", name, "BrokerReachable", "ConnectionFailed", within=within)
    found = healthy.wait_condition("CeleryWorkerPool", name, "ScalingActive", "False", within=5)
    assert found["reason"] == "DemandUnknown"
    one = healthy.wait("Deployment", f"{name}-worker", lambda it: it["spec"]["replicas"], within=10, what="replicas")
    assert one["spec"]["replicas"] == 1
    healthy.delete("CeleryWorkerPool", name)


# ------------------------------------------------------------------------------------------------------ pools


def test_arguments_that_the_operator_owns_are_not_accepted(healthy: Playground) -> None:
    worker = {"extraArgs": ["--concurrency=9"]}
    said = _refused(healthy, "CeleryWorkerPool", "arguments", "ConflictingArguments", replicas=0, worker=worker)
    assert "--concurrency" in said
    assert healthy.api.get("Deployment", healthy.name, "arguments-worker") is None


def test_a_changed_pool_that_is_not_accepted_leaves_what_runs_alone(healthy: Playground) -> None:
    name = "changed"
    healthy.create_pool(name, replicas=1)
    healthy.wait_condition("CeleryWorkerPool", name, "Ready", "True", within=60)
    before = healthy.get("Deployment", f"{name}-worker")["metadata"]["generation"]
    healthy.patch("CeleryWorkerPool", name, {"spec": {"worker": {"extraArgs": ["-Q", "other"]}}})
    _shown(healthy, "CeleryWorkerPool", name, "Accepted", "ConflictingArguments")
    assert healthy.get("Deployment", f"{name}-worker")["metadata"]["generation"] == before
    healthy.delete("CeleryWorkerPool", name)


# ---------------------------------------------------------------------------------------------------- support


def _refused(ground: Playground, kind: str, name: str, reason: str, *, app: str = "app", **spec: Any) -> str:
    """Create an object; return the words with which the operator does not accept it."""
    create = ground.create_pool if kind == "CeleryWorkerPool" else ground.create_workflow
    create(name, app=app, **spec)
    return _shown(ground, kind, name, "Accepted", reason)


def _shown(
    ground: Playground, kind: str, name: str, condition_type: str, reason: str, *, within: float = SHOWN_SECONDS
) -> str:
    """Return a negative condition's words, which have to be there in time together with one Warning event."""
    began = time.monotonic()  # noqa: TID251 - what is measured is real time

    def look() -> Manifest | None:
        found = condition(ground.get(kind, name), condition_type)
        return found if (found.get("status"), found.get("reason")) == ("False", reason) else None

    def said() -> str:
        return f"{condition_type}=False/{reason}; status: {ground.get(kind, name).get('status')}"

    found = eventually(look, within=within * 10, every=0.03, what=said)
    took = time.monotonic() - began  # noqa: TID251 - as above
    assert took <= within, f"{condition_type}=False/{reason} took {took:.2f} s"
    assert found is not None
    assert found["message"], "a negative condition without a message"
    warnings = eventually(
        lambda: _warnings(ground, kind, name, reason), within=2, every=0.05, what=f"an event {reason}"
    )
    assert [warning["message"] for warning in warnings] == [found["message"]]
    created = ground.get(kind, name)["metadata"]["creationTimestamp"]
    assert seconds_between(created, found["lastTransitionTime"]) >= 0
    return str(found["message"])


def _warnings(ground: Playground, kind: str, name: str, reason: str) -> list[Manifest]:
    return [e for e in ground.events(kind, name) if e["type"] == "Warning" and e["reason"] == reason]


def _failed(ground: Playground, name: str, element: Manifest) -> Manifest:
    """Run a task that has to fail; return the failure that status shows."""
    ground.create_workflow(name, chain=[element])
    ended = ground.wait_ended(name, within=RUN_SECONDS)
    found = condition(ended, "Succeeded")
    assert (found["status"], found["reason"]) == ("False", "TaskFailed")
    assert ground.wait_event("CeleryWorkflow", name, "TaskFailed")["type"] == "Warning"
    failures = ended["status"]["failures"]
    assert len(failures) == 1
    failure: Manifest = failures[0]
    return failure


def _secret(ground: Playground, name: str, data: dict[str, str]) -> Manifest:
    metadata = {"name": name, "namespace": ground.name}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
