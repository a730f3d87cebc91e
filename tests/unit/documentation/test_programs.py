"""JSON, Python, Dockerfiles and drawings of the documentation: each says what is so."""

from __future__ import annotations

import ast
import json
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from pages import CHECKOUT, Block, other_blocks

ROOTS = (CHECKOUT / "operator" / "celery_operator", CHECKOUT / "worker_image" / "celery_patterns")
INSTRUCTIONS = {"FROM", "RUN", "COPY", "USER", "ENV", "WORKDIR"}
"""Those that a recipe to extend the image may need; CMD and ENTRYPOINT are the image's own."""
FOR_EXAMPLE = {"rich"}
"""What a page shows how to add to the image."""


@pytest.mark.parametrize("block", other_blocks("json"), ids=str)
def test_json_has_the_keys_that_the_command_writes(block: Block) -> None:
    shown = json.loads(block.text)
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOTS[0] / "cli").glob("*.py")))
    source += (ROOTS[0] / "local" / "outcome.py").read_text(encoding="utf-8")
    written = set(re.findall(r'"(\w+)":', source))
    assert set(shown) | set(shown["workflows"][0]) <= written, f"{block}: not written by the command"


@pytest.mark.parametrize("block", other_blocks("python"), ids=str)
def test_python_compiles_and_imports_what_there_is(block: Block) -> None:
    tree = ast.parse(block.text, str(block))
    modules = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert [name for name in modules if find_spec(name) is None] == []
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert taken, f"{block} imports nothing: is it a program?"
    for node in taken:
        if (node.module or "").partition(".")[0] not in FOR_EXAMPLE:
            module = import_module(node.module or "")
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.parametrize("block", other_blocks("dockerfile"), ids=str)
def test_dockerfile_extends_the_image_and_ends_as_its_user(block: Block) -> None:
    lines = [line.split(maxsplit=1) for line in block.text.splitlines() if line and not line.startswith("#")]
    assert {name for name, _ in lines} <= INSTRUCTIONS
    assert lines[0] == ["FROM", f"celery-worker:{_image_version()}"]
    own = (CHECKOUT / "worker_image" / "Dockerfile").read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (\S+)$", own, re.MULTILINE)
    assert [value for name, value in lines if name == "USER"][-1] == user


@pytest.mark.parametrize("block", other_blocks("text"), ids=str)
def test_drawing_of_the_layers_names_packages_and_modules_that_exist(block: Block) -> None:
    drawn = {line.split()[0]: re.findall(r"\w+", line)[1:] for line in block.text.splitlines() if line.strip()}
    assert list(drawn) == ["operator", "worker"], f"{block} is another drawing: say here what it has to show"
    for root, named in zip(ROOTS, drawn.values(), strict=True):
        assert [name for name in named if not _is_there(root, name)] == []
        packages = {path.name for path in root.iterdir() if (path / "__init__.py").exists()}
        assert packages - set(named) == set(), f"{block} leaves out packages"


def _is_there(root: Path, name: str) -> bool:
    return (root / name / "__init__.py").exists() or (root / f"{name}.py").exists()


def _image_version() -> str:
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert found
    return found[1]
