"""Runs kopf's watches inside our own event loop, until told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import kopf
from kopf._core.engines.peering import Identity  # kopf.operator() wants this type and exports it nowhere else

from celery_operator.handlers.configuration import configure
from celery_operator.handlers.registry import Observe, build_registry


async def watch(
    observe: Observe,
    *,
    namespaces: Sequence[str],
    kubeconfig: str | None,
    identity: str,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
) -> None:
    """Report every object of our kinds to ``observe``, now and when it changes, until ``stop`` is set.

    ``namespaces`` empty means all of them.
    """
    await kopf.operator(
        registry=build_registry(observe, kubeconfig),
        settings=configure(),
        standalone=True,
        identity=Identity(identity),  # else it asks for the user's name, and a pod's user has none
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
        ready_flag=ready,
    )
