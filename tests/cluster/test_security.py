"""What operator and workers may do, and what nobody may do to them."""

from __future__ import annotations

import json

import pytest

from servers import eventually
from support.playground import Playground, condition, worker_selector
from support.release import CONTAINER, Release

ALLOWED_SECRET_VERBS = {"get", "create"}
FORBIDDEN = (
    ("list", "secrets"),
    ("watch", "secrets"),
    ("delete", "secrets"),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "pods/exec"),
    ("get", "nodes"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ("delete", "celeryworkflows.celery-operator.dev"),
    ("delete", "customresourcedefinitions.apiextensions.k8s.io"),
    ("impersonate", "users"),
    ("*", "*"),
)
WRITE = "import pathlib; pathlib.Path('/opt/intruder').write_text('x')"
POST = """
import json, sys, urllib.error, urllib.request
token = {"Authorization": sys.argv[2]} if sys.argv[2] else {}
request = urllib.request.Request(sys.argv[1], method=sys.argv[3], headers=token)
try:
    with urllib.request.urlopen(request, timeout=5) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
"""

DRAIN_AND_LOOK = """
import json, sys, time, urllib.request
request = urllib.request.Request(sys.argv[1] + "/drain", method="POST", headers={"Authorization": sys.argv[2]})
with urllib.request.urlopen(request, timeout=5) as answer:
    status, drained = answer.status, False
for _ in range(100):
    with urllib.request.urlopen(sys.argv[1] + "/state", timeout=5) as answer:
        drained = drained or json.load(answer)["drained"]
    if drained:
        break
    time.sleep(0.03)
print(json.dumps([status, drained]))
"""
"""It looks often: the operator sees a drained worker that it needs, and resumes it, within seconds."""


def test_operator_pods_are_restricted_and_their_root_is_read_only(operator: Release) -> None:
    """The namespace enforces the restricted standard, so the pods' existence is most of the proof."""
    pods = operator.pods()
    assert len(pods) == 2
    for pod in pods:
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        ended = operator.cluster.attempt(
            *("exec", "-n", operator.namespace, pod["metadata"]["name"], "-c", CONTAINER, "--", "python", "-c", WRITE)
        )
        assert ended.code != 0
        assert "Read-only file system" in ended.said


def test_worker_pods_are_restricted_and_their_root_is_read_only(ground: Playground) -> None:
    ground.create_pool(replicas=1)
    (pod,) = ground.wait_for_pods(1, worker_selector("pool"))
    ended = ground.cluster.attempt("exec", "-n", ground.name, pod, "-c", "worker", "--", "python", "-c", WRITE)
    assert ended.code != 0
    assert "Read-only file system" in ended.said
    spec = ground.get("Pod", pod)["spec"]
    assert spec["automountServiceAccountToken"] is False


def test_a_pod_that_the_namespace_refuses_is_reported_in_its_words(ground: Playground) -> None:
    greedy = {"spec": {"hostNetwork": True}}
    pool = {"apiVersion": "celery-operator.dev/v1alpha1", "kind": "CeleryWorkerPool"}
    metadata = {"name": "greedy", "namespace": ground.name}
    ground.api.create(
        {**pool, "metadata": metadata, "spec": {"appRef": {"name": "app"}, "replicas": 1, "template": greedy}}
    )
    found = ground.wait(
        "CeleryWorkerPool",
        "greedy",
        lambda it: condition(it, "Ready").get("reason") == "PodsRefused",
        within=30,
        what="Ready=False/PodsRefused",
    )
    message = condition(found, "Ready")["message"]
    assert "PodSecurity" in message
    assert "hostNetwork" in message


def test_two_replicas_have_one_leader(operator: Release) -> None:
    leaders = [
        pod["metadata"]["name"] for pod in operator.pods() if operator.holder().startswith(pod["metadata"]["name"])
    ]
    assert leaders == [operator.leader()]
    leases = operator.cluster.get_json("leases", "-n", operator.namespace)["items"]
    assert [lease["metadata"]["name"] for lease in leases] == [operator.full_name]


@pytest.mark.parametrize(("verb", "resource"), FORBIDDEN)
def test_the_operator_may_not(operator: Release, verb: str, resource: str) -> None:
    said = operator.cluster.attempt("auth", "can-i", verb, resource, "--all-namespaces", *_as_operator(operator))
    assert said.output.strip() == "no", said.said


def test_the_operators_rights_have_no_wildcards_and_read_secrets_only_by_name(operator: Release) -> None:
    listed = operator.cluster.kubectl(
        "auth", "can-i", "--list", "-n", "default", *_as_operator(operator), "--no-headers"
    )
    rows = [line for line in listed.splitlines() if line.strip()]
    # Columns: resources, non-resource URLs, resource names, verbs. Discovery URLs (`/api/*`) are everybody's.
    own = [row for row in rows if not row.lstrip().startswith("[/")]
    assert [row for row in own if "*" in row] == []
    secrets = [row for row in own if row.split()[0] == "secrets"]
    verbs = {verb for row in secrets for verb in row.rpartition("[")[2].rstrip("] ").split()}
    assert verbs == ALLOWED_SECRET_VERBS


def test_nobody_drains_a_worker_without_its_pools_token(ground: Playground) -> None:
    ground.create_pool(replicas=1)
    (worker,) = ground.wait_for_pods(1, worker_selector("pool"))
    address = f"http://{ground.get('Pod', worker)['status']['podIP']}:9540"
    for path in ("/drain", "/resume"):
        for authorization in ("", "Bearer guessed", "Basic Og=="):
            code, body = _ask(ground, f"{address}{path}", authorization, "POST")
            assert code in (401, 403), body
    code, body = _ask(ground, f"{address}/state", "", "GET")
    assert code == 200
    state = json.loads(body)
    assert (state["ready"], state["draining"]) == (True, False)


def test_the_pools_token_does_drain(ground: Playground) -> None:
    """The same request with the token works: the refusals above are about the token."""
    ground.create_pool(replicas=1)
    (worker,) = ground.wait_for_pods(1, worker_selector("pool"))
    address = f"http://{ground.get('Pod', worker)['status']['podIP']}:9540"
    path = "/var/run/celery-operator/token"
    token = ground.cluster.kubectl("exec", "-n", ground.name, worker, "-c", "worker", "--", "cat", path).strip()
    command = ("exec", "-n", ground.name, "redis", "--", "python3", "-c", DRAIN_AND_LOOK, address, f"Bearer {token}")
    # The operator lets a worker go on that its pool still needs, sometimes before this looks: so it is tried again.
    seen: list[list[object]] = []

    def drained() -> bool:
        seen.append(json.loads(ground.cluster.kubectl(*command)))
        return seen[-1] == [200, True]

    eventually(drained, within=20, every=0.1, what=lambda: f"the worker to say that it drains: {seen}")
    assert {code for code, _ in seen} == {200}


def _as_operator(operator: Release) -> tuple[str, ...]:
    return (f"--as=system:serviceaccount:{operator.namespace}:{operator.full_name}",)


def _ask(ground: Playground, url: str, authorization: str, method: str) -> tuple[int, str]:
    """Send a request from a pod of the namespace that belongs to no pool."""
    command = ("exec", "-n", ground.name, "redis", "--", "python3", "-c", POST, url, authorization, method)
    code, body = json.loads(ground.cluster.kubectl(*command))
    return int(code), str(body)
