"""A namespace that all tests of a module share, made on the operator as the chart installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from support.cluster import Cluster
from support.playground import Playground, playground
from support.release import Release


@contextmanager
def ground_with_redis(cluster: Cluster, release: Release, name: str) -> Iterator[Playground]:
    """Yield a fresh namespace with a Redis."""
    release.mend()
    with playground(cluster, name) as fresh:
        fresh.start_redis()
        yield fresh


@contextmanager
def ground_with_worker(cluster: Cluster, release: Release, name: str, *, slots: int) -> Iterator[Playground]:
    """Yield a fresh namespace with a Redis, the CeleryApp ``app`` and a worker that is ready, in the pool ``pool``."""
    with ground_with_redis(cluster, release, name) as fresh:
        fresh.create_app()
        fresh.create_pool(replicas=1, worker={"concurrency": slots})
        fresh.wait_condition("CeleryWorkerPool", "pool", "Ready", "True", within=60)
        yield fresh
