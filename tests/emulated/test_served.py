"""The operator waits for its CRDs, says so, and goes on when they are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import kmock
import pytest

from celery_operator.adapters.kubernetes.connection import ApiConnection
from celery_operator.adapters.kubernetes.served import ServedKinds
from celery_operator.api import GROUP, VERSION
from celery_operator.handlers.registry import KINDS
from contract.patience import until
from kubeconfigs import write_kubeconfig

pytestmark = pytest.mark.filterwarnings("ignore:read_binary is deprecated")  # kmock 0.8 loads its own data so

PREFIX = f"{GROUP}/{VERSION}"


def serve(api: kmock.KubernetesEmulator, *plurals: str) -> None:
    for plural in plurals:
        resource = api.resources[f"{PREFIX}/{plural}"]
        resource.kind, resource.singular, resource.namespaced = KINDS[plural], KINDS[plural].lower(), True
        resource.verbs = {"get", "list", "watch"}


async def said(kinds: ServedKinds, sentence: str) -> bool:
    return sentence in (kinds.trouble or "")


@pytest.fixture
async def connection(kmock: kmock.KubernetesEmulator, tmp_path: Path) -> AsyncIterator[ApiConnection]:
    api = await ApiConnection.open(write_kubeconfig(tmp_path, str(kmock.url)))
    yield api
    await api.close()


async def test_it_says_what_is_missing_until_all_kinds_are_served(
    kmock: kmock.KubernetesEmulator, connection: ApiConnection
) -> None:
    kinds = ServedKinds(connection, KINDS, pause=0.01)

    async def told(*plurals: str) -> None:
        names = ", ".join(f"{plural}.{GROUP}" for plural in plurals)
        sentence = f"the Kubernetes API does not serve {names} in {VERSION}: apply the Custom"
        await until(lambda: said(kinds, sentence), within=5, what=lambda: str(kinds.trouble))

    waiting = asyncio.create_task(kinds.wait())
    await told("celeryapps", "celeryworkerpools", "celeryworkflows")
    serve(kmock, "celeryworkerpools")
    await told("celeryapps", "celeryworkflows")
    serve(kmock, "celeryapps", "celeryworkflows")
    await asyncio.wait_for(waiting, 10)
    assert kinds.trouble is None


async def test_an_api_server_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    api = await ApiConnection.open(write_kubeconfig(tmp_path, "http://127.0.0.1:1"))
    kinds = ServedKinds(api, KINDS, pause=0.01)
    waiting = asyncio.create_task(kinds.wait())
    try:
        await until(lambda: said(kinds, "cannot be reached"), what=lambda: str(kinds.trouble))
        assert not waiting.done()
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await api.close()
