"""Which Lua the packages hold, and which of it a test has had a real server run."""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import pytest
from redis.connection import PythonRespSerializer

import celery_operator
import celery_patterns
from celery_patterns.store import Script
from celery_patterns.tasks.policy import Fragment
from patterns.resilience.clocked import CLOCK_KEYS

Lua = str | Script | Fragment
MODELS = "models"
"""The mark of a property test: it drives these scripts beside a model of what they are to do."""


def texts(lua: Lua) -> tuple[str, ...]:
    """Return the texts that a server is given somewhere in what it runs, if it runs all of this."""
    if isinstance(lua, Script):
        return (lua.source,)
    if isinstance(lua, Fragment):
        return tuple(filter(None, (lua.admit, lua.undo, lua.settle)))
    return (lua,)


def all_lua() -> Iterator[tuple[str, Lua]]:
    """Return every piece of Lua that a module of the packages names, with its name."""
    for package in (celery_patterns, celery_operator):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith(".__main__"):
                continue
            for name, value in vars(import_module(found.name)).items():
                if isinstance(value, (Script, Fragment)) or (isinstance(value, str) and "redis.call(" in value):
                    yield f"{found.name}.{name}", value


def without_clock(source: str) -> str:
    """Return a script as it is apart from whose clock it reads: the server's, or the one that a test moves."""
    return source.replace(f"redis.call('MGET', {CLOCK_KEYS})", "redis.call('TIME')")


_sources: dict[str, str] = {}
"""Every script that this process has sent to a server, by its hash: later it sends the hash alone."""
_run: set[str] = set()


def _note(command: Iterable[Any]) -> None:
    for word in command:
        if isinstance(word, str) and "redis.call(" in word:
            _sources[_hash(word)] = source = without_clock(word)
            _run.add(source)
        elif isinstance(word, str) and word in _sources:
            _run.add(_sources[word])


def _hash(source: str) -> str:
    return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="session", autouse=True)
def scripts_seen() -> Iterator[None]:
    """Look at what this process sends to any Redis."""
    pack = PythonRespSerializer.pack

    def noted(self: Any, *command: Any) -> Any:
        _note(command)
        return pack(self, *command)  # type: ignore[no-untyped-call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PythonRespSerializer, "pack", noted)
        yield


@pytest.fixture(autouse=True)
def runs_what_it_models(request: pytest.FixtureRequest) -> Iterator[None]:
    """See that a test marked ``models`` has a server run each of the scripts that it names."""
    named = [text for mark in request.node.iter_markers(MODELS) for lua in mark.args for text in texts(lua)]
    # Where another process has run the same script on this server, its hash alone is sent from the beginning.
    _sources.update({_hash(text): without_clock(text) for text in named})
    _run.clear()
    yield
    for text in named:
        assert any(without_clock(text) in source for source in _run), f"it has not run this:\n{text}"
