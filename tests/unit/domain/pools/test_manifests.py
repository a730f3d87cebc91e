"""The Deployment is restricted, drains before it ends, follows its Secret, and takes the user's template in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_operator.api.app import Recovery, SecretKeyRef
from celery_operator.api.conditions import Reason
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools.manifests import PoolIdentity, token_secret, with_replicas, worker_deployment
from celery_operator.domain.pools.naming import ANNOTATION_CONNECTION_HASH, ANNOTATION_MANIFEST_HASH
from celery_operator.domain.pools.resolved_app import ResolvedApp, ResolvedEndpoint
from fakes.pools import pool_spec

POOL = PoolIdentity("data", "etl", "6f4a")
SECRET = SecretKeyRef(name="shop", key="broker")
RECOVERY = {"CELERY_AGENT_LEASE_SECONDS", "CELERY_PATTERNS_MAX_DELIVERIES"}


def app(url: str = "redis://:pa55@redis/0", image: str | None = None) -> ResolvedApp:
    return ResolvedApp(ResolvedEndpoint(url, SECRET), ResolvedEndpoint("redis://redis/1"), "shop:app", image)


def deployment(template: Any = None, resolved: ResolvedApp | None = None, **spec: Any) -> dict[str, Any]:
    fields = spec | ({} if template is None else {"template": template})
    return worker_deployment(pool_spec(**fields), resolved or app(), POOL, token="t", default_image="bundled")


def container(template: Any = None, **spec: Any) -> dict[str, Any]:
    [worker] = deployment(template, **spec)["spec"]["template"]["spec"]["containers"]
    assert isinstance(worker, dict)
    return worker


def test_the_whole_pod_template_passes_the_restricted_standard() -> None:
    template = deployment()["spec"]["template"]
    [worker] = template["spec"].pop("containers")
    assert template["spec"] == {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 3630,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "celery-operator-token", "secret": {"secretName": "etl-agent-token", "defaultMode": 0o444}},
        ],
    }
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_urls_from_a_secret_stay_there_and_inline_ones_are_written_out() -> None:
    assert container()["env"] == [
        {
            "name": "CELERY_BROKER_URL",
            "valueFrom": {"secretKeyRef": {"name": "shop", "key": "broker", "optional": False}},
        },
        {"name": "CELERY_RESULT_BACKEND", "value": "redis://redis/1"},
        {"name": "CELERY_OPERATOR_POOL", "value": "data/etl"},
        {"name": "CELERY_AGENT_PORT", "value": "9540"},
        {"name": "CELERY_AGENT_TOKEN_FILE", "value": "/var/run/celery-operator/token"},
        {"name": "CELERY_AGENT_LEASE_SECONDS", "value": "30"},
    ]
    assert "pa55" not in str(deployment())
    assert "pa55" not in repr(app())


def test_the_agent_answers_probes_and_drains_before_the_container_ends() -> None:
    worker = container(drain={"timeoutSeconds": 60})
    drain = ["python", "-m", "celery_patterns.agent", "drain", "--timeout-seconds", "60"]
    assert worker["lifecycle"] == {"preStop": {"exec": {"command": drain}}}
    probes = [worker[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert probes == [{"path": f"/healthz/{name}", "port": "agent"} for name in ("startup", "ready", "live")]


def test_an_injected_agent_comes_from_the_bundled_image_and_changes_nothing_of_the_other() -> None:
    resolved = app(image="shop:1")
    pod = deployment(resolved=resolved, worker={"agent": "Injected"}, drain={"timeoutSeconds": 60})
    template = pod["spec"]["template"]["spec"]
    [injector] = template["initContainers"]
    [worker] = template["containers"]
    assert injector == {
        "name": "celery-operator-agent",
        "image": "bundled",
        "command": ["python", "-m", "celery_patterns.agent", "inject", "/opt/celery-operator"],
        "securityContext": worker["securityContext"],
        "volumeMounts": [{"name": "celery-operator-agent", "mountPath": "/opt/celery-operator"}],
    }
    assert (worker["image"], worker["command"]) == ("shop:1", ["python", "/opt/celery-operator/run-celery"])
    assert "celery_patterns.agent.autoload" in worker["args"]
    drain = ["python", "/opt/celery-operator/run-agent", "drain", "--timeout-seconds", "60"]
    assert worker["lifecycle"] == {"preStop": {"exec": {"command": drain}}}
    mount = {"name": "celery-operator-agent", "mountPath": "/opt/celery-operator", "readOnly": True}
    assert mount in worker["volumeMounts"]
    assert {"name": "celery-operator-agent", "emptyDir": {}} in template["volumes"]
    assert "PYTHONPATH" not in {variable["name"] for variable in worker["env"]}, "the image's own would be lost"


REDIS, RABBITMQ = "redis://redis/0", "amqp://rabbitmq//"


@pytest.mark.parametrize(
    ("broker", "recovery", "expected"),
    [
        (REDIS, Recovery(), {"CELERY_AGENT_LEASE_SECONDS": "30"}),
        (
            REDIS,
            Recovery(lease_seconds=10, max_deliveries=3),
            {"CELERY_AGENT_LEASE_SECONDS": "10", "CELERY_PATTERNS_MAX_DELIVERIES": "3"},
        ),
        (RABBITMQ, Recovery(), {}),
        (RABBITMQ, Recovery(lease_seconds=10, max_deliveries=3), {"CELERY_PATTERNS_MAX_DELIVERIES": "3"}),
    ],
    ids=["redis", "redis-set", "rabbitmq", "rabbitmq-set"],
)
def test_workers_are_told_what_becomes_of_tasks_whose_worker_is_killed(
    broker: str, recovery: Recovery, expected: dict[str, str]
) -> None:
    """RabbitMQ knows no lease, and what is unset is left to the application."""
    env = container(resolved=replace(app(url=broker), recovery=recovery))["env"]
    assert {each["name"]: each["value"] for each in env if each["name"] in RECOVERY} == expected


def test_a_stock_image_is_told_nothing_of_recovery() -> None:
    resolved = replace(app(), recovery=Recovery(max_deliveries=3))
    names = {each["name"] for each in container(resolved=resolved, worker={"agent": "None"})["env"]}
    assert not names & RECOVERY


def test_another_recovery_rolls_the_pods() -> None:
    changed = replace(app(), recovery=Recovery(lease_seconds=10))
    hashes = {
        manifest["metadata"]["annotations"][ANNOTATION_MANIFEST_HASH]
        for manifest in (deployment(), deployment(resolved=changed))
    }
    assert len(hashes) == 2


def test_a_template_may_say_otherwise_for_one_pool() -> None:
    own = {"name": "CELERY_AGENT_LEASE_SECONDS", "value": "10"}
    assert own in container({"spec": {"containers": [{"name": "worker", "env": [own]}]}})["env"]


def test_a_stock_image_gets_neither_probes_nor_token() -> None:
    worker = container(worker={"agent": "None"})
    assert not {"lifecycle", "startupProbe", "readinessProbe", "livenessProbe", "ports"} & worker.keys()
    assert [mount["mountPath"] for mount in worker["volumeMounts"]] == ["/tmp"]


def test_the_deployment_belongs_to_its_pool_without_holding_it_up() -> None:
    owner = {
        "apiVersion": "celery-operator.dev/v1alpha1",
        "kind": "CeleryWorkerPool",
        "name": "etl",
        "uid": "6f4a",
        "controller": True,
        "blockOwnerDeletion": False,
    }
    assert deployment()["metadata"]["ownerReferences"] == [owner]
    assert token_secret(POOL, "abc")["metadata"]["ownerReferences"] == [owner]
    assert deployment()["spec"]["selector"] == {"matchLabels": {"celery-operator.dev/pool": "etl"}}


@pytest.mark.parametrize(
    ("template", "image", "expected"),
    [
        (None, None, "bundled"),
        (None, "app", "app"),
        ({"spec": {"containers": [{"name": "worker", "image": "own"}]}}, "app", "own"),
    ],
)
def test_the_nearest_image_counts(template: Any, image: str | None, expected: str) -> None:
    [worker] = deployment(template, app(image=image))["spec"]["template"]["spec"]["containers"]
    assert worker["image"] == expected


def test_replicas_and_version_are_no_part_of_the_hash() -> None:
    plain = deployment()
    scaled = with_replicas(plain, 3, "42")
    assert (scaled["spec"]["replicas"], scaled["metadata"]["resourceVersion"]) == (3, "42")
    assert "replicas" not in plain["spec"]
    assert scaled["metadata"]["annotations"] == plain["metadata"]["annotations"]


def test_another_password_rolls_the_pods_and_the_hash_needs_the_token() -> None:
    def hashes(url: str, token: str) -> tuple[str, str]:
        manifest = worker_deployment(pool_spec(), app(url), POOL, token=token, default_image="bundled")
        pods = manifest["spec"]["template"]["metadata"]["annotations"][ANNOTATION_CONNECTION_HASH]
        return pods, manifest["metadata"]["annotations"][ANNOTATION_MANIFEST_HASH]

    first = hashes("redis://:one@redis/0", "t")
    assert hashes("redis://:one@redis/0", "t") == first
    for other in (hashes("redis://:two@redis/0", "t"), hashes("redis://:one@redis/0", "u")):
        assert other[0] != first[0]
        assert other[1] != first[1]


def test_the_overlay_merges_by_name_adds_and_removes() -> None:
    overlay = {
        "metadata": {"labels": {"team": "data"}, "annotations": None},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "volumes": [{"name": "models", "emptyDir": {}}],
            "containers": [
                {
                    "name": "worker",
                    "env": [{"name": "MODE", "value": "fast"}],
                    "volumeMounts": [{"name": "models", "mountPath": "/models"}],
                    "resources": {"limits": {"memory": "1Gi"}},
                    "securityContext": {"readOnlyRootFilesystem": None},
                    "startupProbe": {"failureThreshold": 900},
                },
                {"name": "proxy", "image": "proxy:1"},
            ],
        },
    }
    plain, merged = deployment()["spec"]["template"], deployment(overlay)["spec"]["template"]
    assert merged["metadata"]["labels"] == {**plain["metadata"]["labels"], "team": "data"}
    assert merged["metadata"]["annotations"] == plain["metadata"]["annotations"]
    assert merged["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert [volume["name"] for volume in merged["spec"]["volumes"]] == ["tmp", "celery-operator-token", "models"]
    [own], [worker, proxy] = plain["spec"]["containers"], merged["spec"]["containers"]
    assert proxy == {"name": "proxy", "image": "proxy:1"}
    assert worker["env"] == [*own["env"], {"name": "MODE", "value": "fast"}]
    assert worker["resources"] == {"limits": {"memory": "1Gi"}}
    assert worker["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert worker["startupProbe"] == {**own["startupProbe"], "failureThreshold": 900}
    assert worker["args"] == own["args"]


def in_worker(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **fields}]}}


@pytest.mark.parametrize(
    ("overlay", "path"),
    [
        ({"metadata": {"labels": {"celery-operator.dev/pool": "x"}}}, "metadata.labels[celery-operator.dev/pool]"),
        (
            {"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "9"}}},
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]",
        ),
        ({"spec": {"terminationGracePeriodSeconds": 5}}, "spec.terminationGracePeriodSeconds"),
        ({"spec": {"restartPolicy": "Never"}}, "spec.restartPolicy"),
        ({"spec": {"volumes": [{"name": "celery-operator-token"}]}}, "spec.volumes[0]"),
        (in_worker(command=["sh"]), "spec.containers[0].command"),
        (in_worker(args=["x"]), "spec.containers[0].args"),
        (in_worker(env=[{"name": "CELERY_BROKER_URL"}]), "spec.containers[0].env[0] (CELERY_BROKER_URL)"),
        (in_worker(volumeMounts=[{"mountPath": "/var/run/celery-operator/"}]), "spec.containers[0].volumeMounts[0]"),
        (in_worker(lifecycle={"preStop": {}}), "spec.containers[0].lifecycle.preStop"),
        (in_worker(livenessProbe={"exec": {}}), "spec.containers[0].livenessProbe.exec"),
    ],
)
def test_what_the_operator_owns_is_refused_with_its_path(overlay: Any, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        deployment(overlay)
    assert caught.value.reason is Reason.CONFLICTING_ARGUMENTS
    assert caught.value.message.startswith(f"spec.template.{path} belongs to the operator: ")


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"kind": "Pod"}, "spec.template.kind: only metadata and spec can be set here"),
        ({"metadata": {"name": "x"}}, "spec.template.metadata.name: only labels and annotations can be set here"),
        ({"spec": {"containers": {}}}, "spec.template.spec.containers: expected a list"),
        ({"spec": {"containers": "worker"}}, "spec.template.spec.containers: expected a list"),
        ({"spec": {"containers": [{}]}}, "spec.template.spec.containers[0].name is missing"),
        ({"spec": {"containers": ["worker"]}}, "spec.template.spec.containers[0]: expected an object"),
        ({"spec": {"securityContext": "none"}}, "spec.template.spec.securityContext: expected an object"),
        (in_worker(env={"A": "b"}), "spec.template.spec.containers[0].env: expected a list"),
    ],
)
def test_a_template_of_the_wrong_shape_is_refused_with_its_path(overlay: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        deployment(overlay)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert caught.value.message.startswith(message)


def test_a_stock_image_may_bring_probes_and_hooks_of_its_own() -> None:
    worker = container(in_worker(livenessProbe={"exec": {"command": ["true"]}}), worker={"agent": "None"})
    assert worker["livenessProbe"] == {"exec": {"command": ["true"]}}


KEYS = st.sampled_from(
    ["metadata", "spec", "labels", "annotations", "containers", "volumes", "env", "name", "ports", "lifecycle", "x"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["worker", "tmp", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
)


@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_any_template_is_merged_or_refused_and_never_touches_the_command(overlay: dict[str, Any]) -> None:
    try:
        containers = deployment(overlay)["spec"]["template"]["spec"]["containers"]
    except SpecError as error:
        assert error.message.startswith("spec.template")  # noqa: PT017 - most, but not all, are refused
        return
    [worker] = [each for each in containers if each["name"] == "worker"]
    plain = container()
    assert [worker[field] for field in ("command", "args", "env")] == [plain["command"], plain["args"], worker["env"]]
    assert worker["env"][: len(plain["env"])] == plain["env"]
