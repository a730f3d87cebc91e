"""The session with the API server heeds proxies, and costs nothing where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_operator.adapters.kubernetes.connection import ApiConnection
from kubeconfigs import write_kubeconfig


@pytest.mark.parametrize("proxy", ["", "http://proxy.example:3128"])
async def test_the_environment_is_trusted_only_where_it_names_a_proxy(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    if proxy:
        monkeypatch.setenv("https_proxy", proxy)
    connection = await ApiConnection.open(write_kubeconfig(tmp_path, "http://127.0.0.1:1"))
    try:
        session = connection._client.rest_client._create_pool_manager()
        assert session.trust_env is bool(proxy)
        await session.close()
    finally:
        await connection.close()
