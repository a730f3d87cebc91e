"""Lua that serves twice: as a part of a task's composed script, and as a script of its own for use outside of tasks.

A chunk is the body of a function of ``K`` (keys) and ``A`` (arguments), with ``now`` (ms, server's time), ``HOLDER``,
``num(x)``, ``alive(holder)`` and ``of_task(holder)`` in scope: what ``celery_patterns.tasks.policy.Fragment`` gives to
a policy's Lua.
"""

from __future__ import annotations

from typing import Final

from celery_patterns.store.leases import ALIVE
from celery_patterns.store.script import CLOCK, Script

PRELUDE: Final = (
    CLOCK
    + """
local HOLDER = ARGV[1]
local TASKS = (string.match(KEYS[1], '^{[^}]*}:') or '') .. 'task:'
"""
    + ALIVE
    + """
local K, A = KEYS, {}
for i = 2, #ARGV do A[i - 1] = ARGV[i] end
"""
)
"""A holder outside of tasks has only its own lease; those of tasks, which may share its key, are known by theirs."""


def standalone(chunk: str, name: str) -> Script:
    """Return a chunk as a whole script; its first argument is the holder."""
    return Script(PRELUDE + chunk, name)
