"""No page of the documentation, and no code block of one, is left out of the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pages import (
    AS_PROGRAMS,
    CHECKED_BY,
    PATTERNS,
    WITH_A_WORKER,
    WITHOUT_CODE,
    Block,
    blocks,
    other_blocks,
    read_blocks,
)


def test_every_page_about_patterns_is_in_exactly_one_list() -> None:
    assert sorted((*WITH_A_WORKER, *AS_PROGRAMS, *WITHOUT_CODE)) == sorted(page.name for page in PATTERNS.glob("**/*"))


@pytest.mark.parametrize("name", WITHOUT_CODE)
def test_page_that_no_test_runs_has_no_code(name: str) -> None:
    assert blocks(PATTERNS / name) == []


@pytest.mark.parametrize("block", other_blocks(), ids=str)
def test_block_of_any_other_page_is_in_a_language_that_some_test_checks(block: Block) -> None:
    assert block.language in CHECKED_BY, f"{block}: a block of {block.language!r} is checked by nothing"
    checks = (Path(__file__).parent / CHECKED_BY[block.language]).read_text(encoding="utf-8")
    assert re.search(rf'other_blocks\([^)]*"{block.language}"', checks), f"{CHECKED_BY[block.language]} has none of it"


def test_blocks_are_found_however_they_are_made() -> None:
    text = "a\n```bash\nmake\n\n```\n- b\n\n    still b\n\n  ~~~ yaml\n  a:\n    b: 1\n  ~~~\n\n"
    text += "c\n\n    indented\n```\nbare\n```\n"
    assert read_blocks("p.md", text) == [
        Block("p.md", 3, "bash", "make\n\n"),
        Block("p.md", 11, "yaml", "a:\n  b: 1\n"),
        Block("p.md", 17, "", "indented\n"),
        Block("p.md", 19, "", "bare\n"),
    ]


def test_block_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"p\.md:2: the block has no end"):
        read_blocks("p.md", "a\n```bash\nmake\n")
