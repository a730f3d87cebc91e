"""Lua that serves twice: as a part of a task's composed script, and as a script of its own for use outside of tasks.

A chunk is the body of a function of ``K`` (keys) and ``A`` (arguments), with ``now`` (ms, server's time), ``HOLDER``,
``num(x)`` and ``alive(holder)`` in scope: what ``celery_patterns.tasks.policy.Fragment`` gives to a policy's Lua.
"""

from __future__ import annotations

from typing import Final

from celery_patterns.store.script import CLOCK, Script

PRELUDE: Final = (
    CLOCK
    + """
local HOLDER = ARGV[1]
local function alive(holder) return false end
local K, A = KEYS, {}
for i = 2, #ARGV do A[i - 1] = ARGV[i] end
"""
)
"""Outside of tasks nobody else vouches for a holder: only its own lease counts."""


def standalone(chunk: str, name: str) -> Script:
    """Return a chunk as a whole script; its first argument is the holder."""
    return Script(PRELUDE + chunk, name)
