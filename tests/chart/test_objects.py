from __future__ import annotations

from typing import Any

import pytest
import yaml
from kubernetes import client

from celery_operator import __version__
from celery_operator.api.values import Values
from celery_operator.settings import read_settings
from helm_chart import CHART, CHECKOUT, CRD, MODELS, Helm, Objects, RenderError, typed

pytestmark = pytest.mark.timeout(900)  # the first test may have to build helm

EVERYTHING = yaml.safe_load((CHECKOUT / "tests" / "chart" / "everything.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def default(helm: Helm) -> Objects:
    return helm.render()


@pytest.fixture(scope="module")
def everything(helm: Helm) -> Objects:
    return helm.render(EVERYTHING)


def containers(objects: Objects) -> list[tuple[Any, Any]]:
    """Every (pod spec, container) that the chart renders."""
    pods = [item.spec.template.spec for item in objects.of("Deployment").values()]
    pods += [item.spec for item in objects.of("Pod").values()]
    return [(pod, container) for pod in pods for container in pod.containers]


def environment(container: Any) -> dict[str, str]:
    """A container's variables, with ``pod-0`` for what the pod itself fills in."""
    return {item.name: "pod-0" if item.value_from else item.value or "" for item in container.env}


def test_the_defaults_render_to_exactly_these_objects(default: Objects) -> None:
    assert default.names() == {
        "ClusterRole/system-celery-celery-operator",
        "ClusterRole/system-celery-celery-operator-edit",
        "ClusterRole/system-celery-celery-operator-view",
        "ClusterRoleBinding/system-celery-celery-operator",
        "ConfigMap/celery-celery-operator-test",
        "CustomResourceDefinition/celeryapps.celery-operator.dev",
        "CustomResourceDefinition/celeryworkerpools.celery-operator.dev",
        "CustomResourceDefinition/celeryworkflows.celery-operator.dev",
        "Deployment/celery-celery-operator",
        "Pod/celery-celery-operator-test",
        "PodDisruptionBudget/celery-celery-operator",
        "Role/celery-celery-operator-lease",
        "RoleBinding/celery-celery-operator-lease",
        "Service/celery-celery-operator-metrics",
        "ServiceAccount/celery-celery-operator",
    }


def test_no_object_holds_a_field_that_kubernetes_does_not_know(default: Objects, everything: Objects) -> None:
    """A misspelt field disappears when a manifest is read as Kubernetes' type and written again."""
    for manifest in (*default.manifests, *everything.manifests):
        if manifest["kind"] in MODELS:
            again = client.ApiClient().sanitize_for_serialization(typed(manifest))  # type: ignore[no-untyped-call]
            assert again == _without_empty(manifest)


def _without_empty(value: Any) -> Any:
    """Nulls mean absent."""
    if isinstance(value, dict):
        return {key: _without_empty(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_without_empty(member) for member in value]
    return value


def test_every_name_holds_the_release_and_two_releases_share_no_object_but_the_crds(helm: Helm) -> None:
    redis = {"redis": {"enabled": True}}
    one, two = (helm.render(redis, release=name).names() for name in ("one", "two"))
    assert {name.split("/")[0] for name in one & two} == {CRD}
    assert all("one" in name for name in one - two)


def test_a_release_called_like_the_chart_is_not_named_twice(helm: Helm) -> None:
    assert list(helm.render(release="celery-operator").of("Deployment")) == ["celery-operator"]


def test_the_longest_release_name_gives_valid_names(helm: Helm) -> None:
    names = helm.render({"redis": {"enabled": True}}, release="r" * 53).names()
    too_long = {name for name in names if len(name.split("/")[1]) > 63 and not name.startswith(("ClusterRole", CRD))}
    assert too_long == set()


def test_the_rules_are_the_same_whether_one_cluster_role_or_roles_hold_them(
    default: Objects, everything: Objects
) -> None:
    cluster_wide = default.of("ClusterRole")["system-celery-celery-operator"].rules
    roles = everything.of("Role")
    assert set(roles) == {
        "shop/system-celery-celery-operator",
        "crew/system-celery-celery-operator",
        "celery-celery-operator-lease",
    }
    assert roles["shop/system-celery-celery-operator"].rules == cluster_wide
    assert roles["crew/system-celery-celery-operator"].rules == cluster_wide
    assert everything.of("ClusterRole") == {}


def test_the_operator_may_do_exactly_this(default: Objects) -> None:
    ours = ("celeryapps", "celeryworkerpools", "celeryworkflows")
    rules = default.of("ClusterRole")["system-celery-celery-operator"].rules
    assert {
        (group, resource): set(rule.verbs) for rule in rules for group in rule.api_groups for resource in rule.resources
    } == {
        **{("celery-operator.dev", kind): {"get", "list", "watch"} for kind in ours},
        **{("celery-operator.dev", f"{kind}/status"): {"patch"} for kind in ours},
        ("apps", "deployments"): {"get", "create", "patch"},
        ("", "pods"): {"list", "patch"},
        ("", "secrets"): {"get", "create"},
        ("", "configmaps"): {"get", "create", "patch", "delete"},
        ("", "events"): {"create", "patch"},
    }
    lease = default.of("Role")["celery-celery-operator-lease"]
    assert [(rule.api_groups, rule.resources, set(rule.verbs)) for rule in lease.rules] == [
        (["coordination.k8s.io"], ["leases"], {"get", "create", "update"})
    ]


def test_no_rule_has_a_wildcard(default: Objects, everything: Objects) -> None:
    roles = [
        role
        for objects in (default, everything)
        for kind in ("Role", "ClusterRole")
        for role in objects.of(kind).values()
    ]
    words = {word for role in roles for rule in role.rules for word in (*rule.api_groups, *rule.resources, *rule.verbs)}
    assert not [word for word in words if "*" in word]


def test_the_bindings_bind_the_operators_service_account(default: Objects, everything: Objects) -> None:
    for objects, account in ((default, "celery-celery-operator"), (everything, "somebody")):
        assert objects.of("Deployment")["celery-celery-operator"].spec.template.spec.service_account_name == account
        for kind in ("RoleBinding", "ClusterRoleBinding"):
            for binding in objects.of(kind).values():
                assert [(who.kind, who.name, who.namespace) for who in binding.subjects] == [
                    ("ServiceAccount", account, "system")
                ]


def test_every_container_satisfies_restricted_pod_security_with_a_read_only_root(everything: Objects) -> None:
    found = containers(everything)
    assert {container.name for _, container in found} == {"operator", "redis", "test"}
    for pod, container in found:
        assert pod.security_context.run_as_non_root is True
        assert pod.security_context.run_as_user == 10001
        assert pod.security_context.seccomp_profile.type == "RuntimeDefault"
        assert container.security_context.read_only_root_filesystem is True
        assert container.security_context.allow_privilege_escalation is False
        assert container.security_context.capabilities.drop == ["ALL"]
        assert container.security_context.privileged is None
        assert not [volume for volume in pod.volumes if volume.host_path]


def test_the_environment_is_what_the_operator_reads(everything: Objects) -> None:
    container = everything.of("Deployment")["celery-celery-operator"].spec.template.spec.containers[0]
    settings = read_settings(environment(container))
    assert settings.watch_namespaces == ("shop", "crew")
    assert settings.lease_namespace == "system"
    assert settings.lease_name == "celery-celery-operator"
    assert settings.identity == "pod-0"
    assert settings.worker_image == "registry.example/worker:1.2.4"
    assert (settings.log_level, settings.log_format) == ("debug", "console")
    assert settings.lease_duration_seconds == 5
    assert settings.http_port == container.ports[0].container_port


def test_no_namespaces_means_all(default: Objects) -> None:
    container = default.of("Deployment")["celery-celery-operator"].spec.template.spec.containers[0]
    settings = read_settings(environment(container))
    assert settings.watch_namespaces == ()


def test_images_default_to_the_version_of_the_package(default: Objects) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == __version__
    container = default.of("Deployment")["celery-celery-operator"].spec.template.spec.containers[0]
    assert container.image == f"celery-operator:{__version__}"
    assert environment(container)["CELERY_OPERATOR_WORKER_IMAGE"] == f"celery-worker:{__version__}"


def test_two_replicas_of_which_one_stays_while_nodes_are_drained(default: Objects) -> None:
    deployment = default.of("Deployment")["celery-celery-operator"]
    budget = default.of("PodDisruptionBudget")["celery-celery-operator"]
    assert (deployment.spec.replicas, budget.spec.max_unavailable) == (2, 1)
    assert budget.spec.selector == deployment.spec.selector
    probes = deployment.spec.template.spec.containers[0]
    assert (probes.liveness_probe.http_get.path, probes.readiness_probe.http_get.path) == ("/healthz", "/readyz")


def test_the_selectors_select_the_pods_and_never_each_others(everything: Objects) -> None:
    pods = {name: item.spec.template.metadata.labels for name, item in everything.of("Deployment").items()}
    selectors = {
        "celery-celery-operator": everything.of("Service")["celery-celery-operator-metrics"].spec.selector,
        "celery-redis": everything.of("Service")["celery-redis"].spec.selector,
    }
    chosen = {
        name: {pod for pod, labels in pods.items() if selector.items() <= labels.items()}
        for name, selector in selectors.items()
    }
    assert chosen == {name: {name} for name in pods}


def test_the_bundled_redis_evicts_nothing_and_takes_further_arguments(everything: Objects) -> None:
    arguments = everything.of("Deployment")["celery-redis"].spec.template.spec.containers[0].args
    assert arguments[arguments.index("--maxmemory-policy") + 1] == "noeviction"
    assert arguments[-2:] == ["--maxmemory", "1gb"]


def test_every_value_that_is_set_shows_in_the_output(everything: Objects) -> None:
    pod = everything.of("Deployment")["celery-celery-operator"].spec.template
    assert pod.spec.priority_class_name == "high"
    assert pod.spec.node_selector == {"disk": "fast"}
    assert pod.spec.tolerations[0].key == "only"
    assert pod.spec.image_pull_secrets[0].name == "pull"
    assert pod.spec.affinity.node_affinity is not None
    assert pod.spec.affinity.pod_anti_affinity is None
    assert pod.metadata.annotations == {"note": "1"}
    assert pod.metadata.labels["team"] == "crew"
    assert pod.spec.containers[0].resources.limits == {"memory": "2Gi"}
    service = everything.of("Service")["celery-celery-operator-metrics"]
    assert (service.spec.ports[0].port, service.metadata.annotations) == (9090, {"prometheus.io/scrape": "true"})
    assert everything.of("ServiceAccount")["somebody"].metadata.annotations == {"who": "me"}


def test_the_file_that_sets_everything_sets_every_value() -> None:
    """A new value has to be added to it, or a template's branch would go untested."""

    def keys(value: Any, path: str = "") -> set[str]:
        if not isinstance(value, dict) or not value:
            return {path}
        return {key for name, member in value.items() for key in keys(member, f"{path}.{name}")}

    known = keys(Values().model_dump(by_alias=True, exclude={"global_"}))
    free: tuple[str, ...] = (
        ".nodeSelector",
        ".podLabels",
        ".podAnnotations",
        ".affinity",
        ".resources",
        ".redis.resources",
    )
    free += (".serviceAccount.annotations", ".metrics.annotations")
    assert {key for key in known - keys(EVERYTHING) if not key.startswith(free)} == set()
    assert Values.model_validate(EVERYTHING) != Values()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicaCount": 2}, "additional properties 'replicaCount' not allowed"),
        ({"image": {"name": "x"}}, "additional properties 'name' not allowed"),
        ({"log": {"level": "loud"}}, "value must be one of"),
        ({"watchNamespaces": ["Not_A_Name"]}, "does not match pattern"),
        ({"replicas": "2"}, "got string, want integer"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name has to be set"),
    ],
)
def test_wrong_values_are_refused_with_their_name(helm: Helm, values: dict[str, Any], words: str) -> None:
    with pytest.raises(RenderError, match=words):
        helm.render(values)


def test_the_crds_can_be_left_out(helm: Helm) -> None:
    assert helm.render({"crds": {"install": False}}).of(CRD) == {}


def test_the_rendered_crds_are_the_generated_ones_and_are_kept(default: Objects, everything: Objects) -> None:
    for path in sorted((CHECKOUT / "crds").glob("*.yaml")):
        assert (CHART / "files" / "crds" / path.name).read_bytes() == path.read_bytes()
        generated = yaml.safe_load(path.read_text(encoding="utf-8"))
        rendered = default.of(CRD)[generated["metadata"]["name"]]
        assert rendered["spec"] == generated["spec"]
        assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert "annotations" not in everything.of(CRD)[generated["metadata"]["name"]]["metadata"]


def test_helm_lint_finds_nothing(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART))
