"""No script goes without a property test that has a real server run it, beside a model of what it is to do.

That such a test really runs what its mark names, the fixture ``runs_what_it_models`` sees.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from pages import CHECKOUT
from scripts_run import MODELS, all_lua, texts, without_clock

FOLDERS = ("agent", "patterns")


def modelled() -> set[str]:
    """Return the texts of the scripts that the marks of property tests name."""
    found: set[str] = set()
    for file in (file for folder in FOLDERS for file in (CHECKOUT / "tests" / folder).rglob("test_*.py")):
        if f"pytest.mark.{MODELS}" in file.read_text(encoding="utf-8"):
            for value in list(vars(import_module(_module(file))).values()):
                marks = getattr(value, "pytestmark", ()) if callable(value) else ()
                found |= {text for mark in marks if mark.name == MODELS for lua in mark.args for text in texts(lua)}
    return found


def _module(file: Path) -> str:
    return ".".join(file.relative_to(CHECKOUT / "tests").with_suffix("").parts)


def test_every_script_is_run_beside_a_model() -> None:
    known = {without_clock(text) for text in modelled()}
    missing = {
        name
        for name, lua in all_lua()
        if not all(any(without_clock(text).strip() in one for one in known) for text in texts(lua))
    }
    assert missing == set()


@pytest.mark.parametrize("package", ["celery_patterns", "celery_operator"])
def test_scripts_of_both_packages_are_found(package: str) -> None:
    assert [name for name, _ in all_lua() if name.startswith(f"{package}.")]
