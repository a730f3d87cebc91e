"""Tables and durations as plain text."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

GAP = "  "
NARROWEST = 12
"""The last column is cut to the terminal's width, but to no fewer characters."""


def say(text: str = "") -> None:
    """Write one line of a command's output."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """Write a value as JSON."""
    say(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, width: int | None = None) -> str:
    """Return rows under a head, columns aligned; the last column is cut where the terminal ends."""
    lines = [[" ".join(str(cell).split()) for cell in row] for row in [head, *rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    total = width or shutil.get_terminal_size((160, 40)).columns
    last = max(NARROWEST, total - sum(widths) - len(GAP) * len(widths))
    return "\n".join(
        GAP.join([*(cell.ljust(size) for cell, size in zip(line, widths, strict=False)), _cut(line[-1], last)]).rstrip()
        for line in lines
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def ago(seconds: float) -> str:
    """Return a duration as people read it: 5s, 12m, 3h, 8d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
