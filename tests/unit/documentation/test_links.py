"""Every link of the documentation that leads to this checkout leads to something."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from pages import CHECKOUT, PAGES

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^( *)(`{3,}).*?^ *\2$", re.MULTILINE | re.DOTALL)


def dead_links(page: Path, text: str) -> list[str]:
    """Return the links of a page's text to files that do not exist, or to headings that their file does not have."""
    dead = []
    for link in _LINK.findall(_CODE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(CHECKOUT)
        if not inside or not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return frozenset(re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_no_link_of_a_page_is_dead(page: Path) -> None:
    assert dead_links(page, page.read_text(encoding="utf-8")) == []


def test_dead_links_are_seen() -> None:
    text = "[a](docs/workflows.md) [b](docs/no.md) [c](docs/workflows.md#no) [d](#no) [e](https://x.org)\n```\n[f](g)\n```\n"
    assert dead_links(CHECKOUT / "README.md", text) == ["docs/no.md", "docs/workflows.md#no", "#no"]
