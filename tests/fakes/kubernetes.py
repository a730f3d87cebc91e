"""What Kubernetes itself does with a pool's Deployment: pods come, become ready, and go in its own order."""

from __future__ import annotations

import itertools

from celery_operator.domain.pools.naming import ANNOTATION_DELETION_COST
from celery_operator.services.ports import Manifest, ObjectKey
from fakes.agents import FakeAgents, idle_worker
from fakes.cluster import FakeCluster


class FakeKubernetes:
    """Controllers and kubelet of one Deployment. ``removed`` lists the addresses of pods that were told to end."""

    def __init__(self, cluster: FakeCluster, agents: FakeAgents, deployment: str, *, slots: int = 1) -> None:
        self.cluster = cluster
        self.agents = agents
        self.key = ObjectKey("default", deployment)
        self.slots = slots
        self.removed: list[str] = []
        self._numbers = itertools.count(1)

    def settle(self) -> None:
        """Create or remove pods as the Deployment asks, start those that are new, and report its status."""
        deployment = self.cluster.objects.get(("Deployment", self.key))
        if deployment is None:
            return
        pods = self.pods()
        replicas = deployment["spec"]["replicas"]
        for pod in sorted(pods, key=self._order)[: max(0, len(pods) - replicas)]:
            self.removed.append(address_of(pod))
            self.agents.states.pop(address_of(pod), None)
            del self.cluster.objects["Pod", ObjectKey("default", pod["metadata"]["name"])]
        for _ in range(replicas - len(pods)):
            self._start(deployment)
        self._refresh_readiness()
        ready = sum(is_ready(pod) for pod in self.pods())
        status = {"replicas": replicas, "updatedReplicas": replicas, "readyReplicas": ready}
        generation = deployment["metadata"]["generation"]
        self.cluster.put({**deployment, "status": {**status, "observedGeneration": generation}})

    def pods(self) -> list[Manifest]:
        return [pod for (kind, _), pod in self.cluster.objects.items() if kind == "Pod"]

    def addresses(self) -> list[str]:
        return [address_of(pod) for pod in self.pods()]

    def _order(self, pod: Manifest) -> tuple[bool, int]:
        annotations = pod["metadata"].get("annotations", {})
        return (is_ready(pod), int(annotations.get(ANNOTATION_DELETION_COST, 0)))

    def _start(self, deployment: Manifest) -> None:
        template, number = deployment["spec"]["template"], next(self._numbers)
        pod = self.cluster.put(
            {
                "kind": "Pod",
                "metadata": {
                    "name": f"{self.key.name}-{number}",
                    "labels": {**template["metadata"]["labels"], "pod-template-hash": "one"},
                },
                "spec": {**template["spec"], "nodeName": "node"},
                "status": {"phase": "Running", "podIP": f"10.0.0.{number}"},
            }
        )
        self.agents.states[address_of(pod)] = idle_worker(slots=self.slots)

    def _refresh_readiness(self) -> None:
        for pod in self.pods():
            state = self.agents.states.get(address_of(pod))
            ready = state is not None and state.ready
            pod["status"] |= {
                "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                "containerStatuses": [{"name": "worker", "started": True, "ready": ready}],
            }


def address_of(pod: Manifest) -> str:
    return f"{pod['status']['podIP']}:9540"


def is_ready(pod: Manifest) -> bool:
    return any(each["status"] == "True" for each in pod["status"].get("conditions", []) if each["type"] == "Ready")
