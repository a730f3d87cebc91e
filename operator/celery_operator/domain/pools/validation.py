"""What makes a pool's spec wrong beyond its schema.

The API server checks most of this with CEL already; manifests that never passed one (local mode) are checked here.
"""

from __future__ import annotations

from collections import Counter

from celery_operator.api.conditions import Reason
from celery_operator.api.worker_pool import WorkerPoolSpec
from celery_operator.domain.errors import SpecError
from celery_operator.domain.pools.arguments import refuse_owned


def check_pool(spec: WorkerPoolSpec) -> None:
    """Raise SpecError if values contradict each other."""
    if (spec.app_ref is None) == (spec.app is None):
        raise _invalid("spec: set exactly one of appRef and app")
    scaling = spec.autoscaling
    if scaling is not None and spec.replicas is not None:
        raise _invalid(
            "spec.replicas cannot be set beside autoscaling: change autoscaling.minReplicas and maxReplicas, or remove "
            "autoscaling to fix the number of replicas"
        )
    if scaling is not None and scaling.min_replicas > scaling.max_replicas:
        raise _invalid(
            f"spec.autoscaling.minReplicas ({scaling.min_replicas}) must not be greater than maxReplicas "
            f"({scaling.max_replicas})"
        )
    for name, count in Counter(queue.name for queue in spec.queues).items():
        if count > 1:
            raise _invalid(f"spec.queues names {name} {count} times: name each queue once")
    refuse_owned(spec.worker.extra_args)


def _invalid(message: str) -> SpecError:
    return SpecError(Reason.INVALID_SPEC, message)
