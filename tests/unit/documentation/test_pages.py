"""No page of the documentation, and no code block of one, is left out of the tests."""

from __future__ import annotations

import pytest

from pages import AS_PROGRAMS, PATTERNS, WITH_A_WORKER, WITHOUT_CODE, Block, blocks, read_blocks


def test_every_page_about_patterns_is_in_exactly_one_list() -> None:
    assert sorted((*WITH_A_WORKER, *AS_PROGRAMS, *WITHOUT_CODE)) == sorted(page.name for page in PATTERNS.glob("**/*"))


@pytest.mark.parametrize("name", WITHOUT_CODE)
def test_page_that_no_test_runs_has_no_code(name: str) -> None:
    assert blocks(PATTERNS / name) == []


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
