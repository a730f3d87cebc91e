"""A Lua script that runs by its hash and loads itself again where the server has forgotten it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError

Argument = str | int | float | bytes


class Script:
    """One Lua script.

    Args:
        source: Its text.
        name: For people.
    """

    __slots__ = ("name", "sha", "source")

    def __init__(self, source: str, name: str = "") -> None:
        self.source = source
        self.name = name
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: Any, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """Run it: one round trip, two if the server was restarted or told SCRIPT FLUSH."""
        try:
            return client.evalsha(self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return client.eval(self.source, len(keys), *keys, *arguments)


CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local now_us = time[1] * 1000000 + time[2]
local function num(x) return string.format('%.0f', x) end
"""
"""Start of every script that needs the time: the server's, the same for all workers. ``num`` keeps large numbers whole
(Lua would write them with an exponent)."""
