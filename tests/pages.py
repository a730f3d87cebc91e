"""The pages of the documentation, their code blocks, and which tests run those of the pages about patterns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

CHECKOUT = Path(__file__).resolve().parents[1]
PATTERNS = CHECKOUT / "docs" / "patterns"
PAGES = sorted(
    page
    for place in ("*.md", "docs/**/*.md", "examples/**/*.md", "helm/*/*.md", "requirements/*.md")
    for page in CHECKOUT.glob(place)
)

WITH_A_WORKER = tuple(sorted(page.name for page in PATTERNS.glob("tasks*.md")))
"""Run by tests/patterns/tasks/test_docs.py: applications in one worker, callers as programs."""
AS_PROGRAMS = ("bulkhead.md", "circuit-breaker.md", "dead-letters.md", "doctor.md", "errors.md", "poison.md")
"""Run by tests/patterns/resilience/test_docs.py: a page's Python is one program, its commands are called."""
WITHOUT_CODE = ("bad-input.md",)
CHECKED_BY = {
    "yaml": "test_resources.py",
    "bash": "test_commands.py",
    "console": "test_commands.py",
    "json": "test_programs.py",
    "python": "test_programs.py",
    "dockerfile": "test_programs.py",
    "text": "test_programs.py",
}
"""By language, what looks at the blocks of all other pages: a module of tests/unit/documentation."""

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
_LIST_ITEM = re.compile(r"^\s*([-*+]|\d+[.)])\s")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a page."""

    page: str
    """Path in the checkout."""
    line: int
    """Of its first line of code, from 1."""
    language: str
    """What the fence names; empty: nothing, or the block is made by indentation."""
    text: str

    @override
    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page."""
    return list(read_blocks(str(page.relative_to(CHECKOUT)), page.read_text(encoding="utf-8")))


def other_blocks(*languages: str) -> list[Block]:
    """Return the blocks of the pages that are not about patterns: those in these languages, or all."""
    pages = (page for page in PAGES if page.parent != PATTERNS)
    return [block for page in pages for block in blocks(page) if not languages or block.language in languages]


def read_blocks(page: str, text: str) -> list[Block]:
    """Return the code blocks of a text. Raises ValueError if one has no end."""
    found: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        if fence := _FENCE.match(lines[number]):
            indent, marks, language = fence.groups()
            end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() == marks), None)
            if end is None:
                raise ValueError(f"{page}:{number + 1}: the block has no end")
            code = "".join(f"{line.removeprefix(indent)}\n" for line in lines[number + 1 : end])
            found.append(Block(page, number + 2, (language.split() or [""])[0], code))
            number = end
        elif _is_indented_code(lines, number):
            found.append(Block(page, number + 1, "", lines[number].strip() + "\n"))
        number += 1
    return found


def _is_indented_code(lines: list[str], number: int) -> bool:
    """Whether a line begins a block by its indentation, and is not the next paragraph of a list item."""
    if not re.match(r"^(    |\t)\s*\S", lines[number]) or (number and lines[number - 1].strip()):
        return False
    before = next((line for line in reversed(lines[:number]) if line and not line[0].isspace()), "")
    return not _LIST_ITEM.match(before)
