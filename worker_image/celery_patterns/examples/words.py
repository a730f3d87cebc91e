"""A word count over real text: the docstrings and comments of the Celery and kombu that the worker has installed.

``list_modules`` names the texts, ``count`` maps one of them to its words, ``merge`` adds counts (associative, so it can
be applied in a tree), ``top`` reads off the answer.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import tokenize
from collections import Counter
from pathlib import Path

from celery_patterns.examples.app import app

PACKAGES = ("celery", "kombu")

_WORD = re.compile(r"[a-z][a-z']*[a-z]|[a-z]")


@app.task(name="examples.words.list_modules")  # type: ignore[untyped-decorator]
def list_modules() -> list[str]:
    """Return the paths of the packages' modules, relative to where they are installed, sorted."""
    found: list[str] = []
    for package in PACKAGES:
        root = _package_root(package)
        found += [str(path.relative_to(root.parent)) for path in root.rglob("*.py") if path.is_file()]
    return sorted(found)


@app.task(name="examples.words.count")  # type: ignore[untyped-decorator]
def count(name: str) -> dict[str, int]:
    """Return how often each word occurs in one module's docstrings and comments."""
    return dict(Counter(word for text in _texts(_source(name)) for word in _WORD.findall(text.lower())))


@app.task(name="examples.words.merge")  # type: ignore[untyped-decorator]
def merge(counts: list[dict[str, int] | None]) -> dict[str, int]:
    """Return the sum of several counts; ``None`` stands for a module that was allowed to fail."""
    merged: Counter[str] = Counter()
    for part in counts:
        merged.update(part or {})
    return dict(merged)


@app.task(name="examples.words.top")  # type: ignore[untyped-decorator]
def top(counts: dict[str, int], limit: int = 10, letters: int = 1) -> list[list[str | int]]:
    """Return the most frequent words of at least so many letters; words with the same count in alphabetical order."""
    long_enough = (item for item in counts.items() if len(item[0]) >= letters)
    ordered = sorted(long_enough, key=lambda item: (-item[1], item[0]))
    return [[word, number] for word, number in ordered[:limit]]


def _package_root(package: str) -> Path:
    file = importlib.import_module(package).__file__
    if file is None:
        raise LookupError(f"the package {package!r} lies in no directory here")
    return Path(file).parent


def _source(name: str) -> str:
    package = name.partition("/")[0]
    if package not in PACKAGES:
        raise ValueError(f"expected the path of a module of {' or '.join(PACKAGES)}, got {name!r}")
    root = _package_root(package).parent.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root / package) or path.suffix != ".py":
        raise ValueError(f"{name!r} is not a module of {package}")
    return path.read_text(encoding="utf-8")


def _texts(source: str) -> list[str]:
    """Return a module's docstrings and comments."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return texts + [token.string for token in tokens if token.type == tokenize.COMMENT]
