"""Reads resources from YAML (or JSON) files, and remembers the line of every field, so that errors can name it."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from celery_operator.api import API_VERSION
from celery_operator.api.structural import BOOLEAN_HINT
from celery_operator.services.ports import Manifest

OUR_KINDS = ("CeleryApp", "CeleryWorkerPool", "CeleryWorkflow")
PLAIN_KINDS = ("Secret", "ConfigMap")
"""Kubernetes' own kinds that local mode has a use for."""
IGNORED_KINDS = ("Namespace", "ServiceAccount")
"""Kinds that belong beside ours in a file and mean nothing here."""
STDIN = "-"
TEXT_TAG = "tag:yaml.org,2002:str"
MERGE_TAG = "tag:yaml.org,2002:merge"
SUFFIXES = (".yaml", ".yml", ".json")
_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where: file, document, line, field."""

    source: str
    message: str
    document: int | None = None
    line: int | None = None
    path: str = ""
    resource: str = ""
    """Kind and name, as far as known."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, without what is not known."""
        values = {
            "file": self.source,
            "document": self.document,
            "line": self.line,
            "resource": self.resource,
            "path": self.path,
            "message": self.message,
        }
        return {name: value for name, value in values.items() if value not in (None, "")}

    @override
    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        what = " ".join(part for part in (self.resource, self.path) if part)
        return f"{where}: {what}: {self.message}" if what else f"{where}: {self.message}"


@dataclass(frozen=True, slots=True)
class Document:
    """One resource of a file."""

    source: str
    number: int
    """Counts from 1 in its file."""
    manifest: Manifest
    node: yaml.Node = field(repr=False, compare=False)

    @property
    def resource(self) -> str:
        """Kind and name."""
        metadata = self.manifest.get("metadata")
        name = metadata.get("name", "") if isinstance(metadata, dict) else ""
        return " ".join(str(part) for part in (self.manifest.get("kind", ""), name) if part)

    def problem(self, message: str, path: str = "") -> Problem:
        """Return a problem of the field at ``path`` (``spec.dag.steps[0].name``); its line, or its parent's."""
        return Problem(self.source, message, self.number, line_of(self.node, path), path, self.resource)


def line_of(node: yaml.Node, path: str) -> int:
    """Return the line of a field; of the nearest field around it if it is not there."""
    line = node.start_mark.line + 1
    for index, name in _PART.findall(path):
        if name and isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == name), None)
            if found is None:
                return line
            line, node = int(found[0].start_mark.line) + 1, found[1]
        elif index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
            node = node.value[int(index)]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def load(paths: Iterable[str]) -> tuple[list[Document], list[Problem]]:
    """Read all resources of files and folders (``-`` is the standard input), in order, and what could not be read."""
    documents: list[Document] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            for source, text in _texts(path):
                _read(source, text, documents, problems)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            problems.append(Problem(path, f"cannot be read: {reason}"))
    problems.extend(_duplicates(documents))
    return documents, problems


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return `` Did you mean X?`` for a word that is nearly one of those known, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def _texts(path: str) -> Iterator[tuple[str, str]]:
    if path == STDIN:
        yield "<stdin>", sys.stdin.read()
        return
    place = Path(path)
    if not place.is_dir():
        yield path, place.read_text(encoding="utf-8")
        return
    found = sorted(file for file in place.iterdir() if file.suffix in SUFFIXES)
    if not found:
        raise OSError(f"the folder holds no {', '.join(SUFFIXES)} file")
    for file in found:
        yield str(file), file.read_text(encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: no dates, no key twice in one object, keys are texts."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} stands here twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.tag != MERGE_TAG:
                key.tag = TEXT_TAG
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read(source: str, text: str, documents: list[Document], problems: list[Problem]) -> None:
    loader = _Loader(text)
    number, found = 0, len(problems)
    try:
        while loader.check_node():
            node = loader.get_node()
            number += 1
            if node is None:
                continue
            value = loader.construct_document(node)
            if value is not None:
                _accept(_document(source, number, value, node), value, documents, problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        what = ", ".join(part for part in (error.context, error.problem) if part)
        problems.append(Problem(source, f"not valid YAML: {what}", number or 1, line))
    except yaml.YAMLError as error:
        problems.append(Problem(source, f"not valid YAML: {error}", number or 1))
    finally:
        loader.dispose()
    if number == 0 and len(problems) == found:
        problems.append(Problem(source, "holds no resource"))


def _accept(document: Document, value: Any, documents: list[Document], problems: list[Problem]) -> None:
    """Add a document, or each item of a List; what is no resource becomes a problem."""
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        items = next(v for k, v in document.node.value if k.value == "items")
        for item, node in zip(value["items"], items.value, strict=True):
            _accept(_document(document.source, document.number, item, node), item, documents, problems)
        return
    problem = _shape_problem(document, value)
    if problem is not None:
        problems.append(problem)
    elif document.manifest["kind"] not in IGNORED_KINDS:
        documents.append(document)


def _document(source: str, number: int, value: Any, node: yaml.Node) -> Document:
    return Document(source, number, value if isinstance(value, dict) else {}, node)


def _shape_problem(document: Document, value: Any) -> Problem | None:
    """Say why a value is no resource that can be run here; None if it is one."""
    if not isinstance(value, dict):
        return document.problem(
            f"expected a resource (an object with apiVersion, kind and metadata), got {_kind_of(value)}"
        )
    kind = value.get("kind")
    known = (*OUR_KINDS, *PLAIN_KINDS)
    if not isinstance(kind, str):
        return document.problem(f"kind is missing: expected one of {', '.join(known)}")
    if kind not in (*known, *IGNORED_KINDS):
        return document.problem(
            f"{kind} is not a kind that can be run here: expected {', '.join(known)}.{did_you_mean(kind, known)}",
            "kind",
        )
    if kind in OUR_KINDS and value.get("apiVersion") != API_VERSION:
        return document.problem(f"expected {API_VERSION}, got {value.get('apiVersion')!r}", "apiVersion")
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        named = isinstance(metadata, dict) and isinstance(metadata.get("name"), bool)
        hint = BOOLEAN_HINT if named else ""
        return document.problem(f"metadata.name is missing or no text: expected a name{hint}", "metadata")
    return None


def _duplicates(documents: Sequence[Document]) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str], Document] = {}
    for document in documents:
        metadata = document.manifest["metadata"]
        key = (document.manifest["kind"], metadata.get("namespace") or "default", metadata["name"])
        first = seen.setdefault(key, document)
        if first is not document:
            where = f"{first.source}, document {first.number}"
            yield document.problem(f"the same resource stands in {where} already", "metadata.name")


def _kind_of(value: Any) -> str:
    names = {str: "a text", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), type(value).__name__)
