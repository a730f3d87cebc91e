"""Shows a result for people: a number stands in its line, a list of pairs or objects becomes a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

BAR_WIDTH = 36
INLINE_CHARACTERS = 80
"""A value whose JSON is no longer than this stands in one line."""
MOST_ROWS = 40
MOST_COLUMNS = 8


def show_output(name: str, value: Any, *, ascii_only: bool = False) -> RenderableType:
    """Return how an output of a workflow is shown."""
    pairs = _pairs(value)
    if pairs is not None:
        return _titled(name, _bars(pairs, ascii_only=ascii_only), len(pairs))
    rows = _rows(value)
    if rows is not None:
        return _titled(name, _table(rows), len(rows))
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= INLINE_CHARACTERS:
        return Text.assemble((name, "bold"), " = ", (text, "green"))
    pretty = json.dumps(value, ensure_ascii=False, indent=2)
    return Group(Text(name, "bold"), Padding(Text(pretty), (0, 0, 0, 2), expand=False))


def _titled(name: str, table: Table, count: int) -> RenderableType:
    more = Text(f"… {count - MOST_ROWS} more", "dim") if count > MOST_ROWS else Text("")
    parts: list[RenderableType] = [Text(name, "bold"), Padding(table, (0, 0, 0, 2), expand=False)]
    return Group(*parts, more) if more.plain else Group(*parts)


def _pairs(value: Any) -> list[tuple[str, float]] | None:
    """Return a list of (text, number) pairs if the value is one with more than one element."""
    if not isinstance(value, list) or len(value) < 2:
        return None
    pairs = []
    for each in value:
        if not (isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) and _is_number(each[1])):
            return None
        pairs.append((each[0], each[1]))
    return pairs


def _rows(value: Any) -> list[Mapping[str, Any]] | None:
    """Return a list of objects with the same few fields if the value is one."""
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(each, dict) for each in value):
        return None
    fields = list(value[0])
    same = all(list(each) == fields for each in value)
    return value if same and 0 < len(fields) <= MOST_COLUMNS else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bars(pairs: Sequence[tuple[str, float]], *, ascii_only: bool) -> Table:
    largest = max((abs(number) for _, number in pairs), default=0) or 1
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="left", style="cyan", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for label, number in pairs[:MOST_ROWS]:
        width = round(BAR_WIDTH * max(number, 0) / largest)
        table.add_row(label, f"{number:,}", Text(("#" if ascii_only else "▇") * width, "green"))
    return table


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for field, value in rows[0].items():
        table.add_column(field, justify="right" if _is_number(value) else "left")
    for row in rows[:MOST_ROWS]:
        table.add_row(*(value if isinstance(value, str) else json.dumps(value) for value in row.values()))
    return table
