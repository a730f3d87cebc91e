"""What the API server does with a resource and its structural schema, for places where there is no API server.

First unknown fields are looked for and defaults are filled in, then values are checked, then, if all is well so far,
CEL rules. Rules that compare with an older state (``oldSelf``) speak about changes and do not apply to one manifest.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import cel
from typing_extensions import override

from celery_operator.api.schema import PRESERVE, Schema

JSON_TYPES = (
    (bool, "boolean"),  # before int, which it is in Python
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (Mapping, "object"),
    (list, "array"),
    (type(None), "null"),
)


BOOLEAN_HINT = " (YAML reads an unquoted y, n, on, off, yes or no as a boolean: quote it)"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class Problem(NamedTuple):
    """One thing that is wrong."""

    path: str
    """Where: ``spec.chain[0].task.name``."""
    message: str
    """What is wrong, what was expected, what to do."""

    @override
    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def check_unknown_fields(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    """Yield a problem for each field that the schema does not name, with the name that was probably meant."""
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from check_unknown_fields(item, schema["items"], f"{path}[{index}]")
    if not isinstance(value, Mapping) or "properties" not in schema:
        return
    known = schema["properties"]
    for name, member in value.items():
        if name in known:
            yield from check_unknown_fields(member, known[name], _join(path, name))
        elif not schema.get(PRESERVE):
            yield Problem(_join(path, str(name)), f"unknown field{_suggestion(str(name), known)}")


def _suggestion(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(sorted(known))}"


def with_defaults(value: Any, schema: Schema) -> Any:
    """Return a value with the schema's defaults, and without nulls where null is not allowed: those mean absent."""
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(item, schema["items"]) for item in value]
    if not isinstance(value, Mapping) or "properties" not in schema:
        return value
    known = schema["properties"]
    result = {
        name: member
        for name, member in value.items()
        if member is not None or name not in known or known[name].get("nullable")
    }
    for name, member in known.items():
        if name not in result and "default" in member:
            result[name] = deepcopy(member["default"])
    return {name: with_defaults(member, known.get(name, {})) for name, member in result.items()}


def check_values(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    """Yield what the schema says against a value: types, required fields, bounds, patterns, enums, repeated names."""
    if value is None and schema.get("nullable"):
        return
    wanted = schema.get("type")
    found = _json_type(value)
    if wanted is not None and found != wanted:
        hint = BOOLEAN_HINT if found == "boolean" else ""
        yield Problem(path, f"must be of type {wanted}, not {found}{hint}")
        return
    yield from (Problem(path, message) for message in _check_scalar(value, schema))
    if isinstance(value, Mapping):
        yield from _check_object(value, schema, path)
    elif isinstance(value, list):
        yield from _check_list(value, schema, path)


def _check_scalar(value: Any, schema: Schema) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"unsupported value {value!r}; supported: {', '.join(map(str, schema['enum']))}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"must be at least {schema['minimum']}, not {value}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"must be at most {schema['maximum']}, not {value}"
    if not isinstance(value, str):
        return
    if _HALF_CHARACTER.search(value):
        yield f"{value[:64]!r} is no text: half of a pair of surrogates stands alone in it"
        return
    if len(value) < schema.get("minLength", 0):
        yield f"must have at least {schema['minLength']} characters"
    if len(value) > schema.get("maxLength", len(value)):
        yield f"must have at most {schema['maxLength']} characters, not {len(value)}"
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield f"{value[:64]!r} must match {schema['pattern']}"


def _check_object(value: Mapping[str, Any], schema: Schema, path: str) -> Iterator[Problem]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield Problem(_join(path, name), "is required")
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        wanted = schema["maxProperties"]
        yield Problem(path, f"must set exactly {wanted} of {', '.join(known)}, not {len(value)}")
    for name, member in value.items():
        if name in known:
            yield from check_values(member, known[name], _join(path, name))


def _check_list(value: list[Any], schema: Schema, path: str) -> Iterator[Problem]:
    if len(value) < schema.get("minItems", 0):
        yield Problem(path, f"must have at least {schema['minItems']} items")
    if len(value) > schema.get("maxItems", len(value)):
        yield Problem(path, f"must have at most {schema['maxItems']} items, not {len(value)}")
        return
    if "items" in schema:
        for index, item in enumerate(value):
            yield from check_values(item, schema["items"], f"{path}[{index}]")
    if schema.get("x-kubernetes-list-type") == "map":
        yield from _check_keys(value, schema["x-kubernetes-list-map-keys"], path)


def _check_keys(value: list[Any], keys: list[str], path: str) -> Iterator[Problem]:
    seen = set()
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            continue
        identity = tuple(str(item.get(key)) for key in keys)
        if identity in seen:
            yield Problem(f"{path}[{index}]", f"{keys[0]} {', '.join(identity)} is there already: it has to be unique")
        seen.add(identity)


def check_rules(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    """Yield the messages of the CEL rules that a value breaks. Its defaults and types have to be right already."""
    for rule in schema.get("x-kubernetes-validations", ()):
        program = _program(rule["rule"])
        if program is not None and not _holds(program, value):
            yield Problem(path, rule["message"])
    if isinstance(value, Mapping):
        for name, member in schema.get("properties", {}).items():
            if name in value:
                yield from check_rules(value[name], member, _join(path, name))
    elif isinstance(value, list) and _has_rules(schema):
        for index, item in enumerate(value):
            yield from check_rules(item, schema["items"], f"{path}[{index}]")


def check_hidden(value: Any, shown: Schema, complete: Schema, path: str) -> Iterator[Problem]:
    """Yield what is wrong where the CRD's schema (``shown``) says less than the ``complete`` one; trust the rest."""
    if shown.get(PRESERVE) and not complete.get(PRESERVE):
        filled = with_defaults(value, complete)
        found = [*check_unknown_fields(value, complete, path), *check_values(filled, complete, path)]
        yield from found or check_rules(filled, complete, path)
    elif isinstance(value, Mapping):
        for name, member in complete.get("properties", {}).items():
            if name in value:
                yield from check_hidden(value[name], shown["properties"][name], member, _join(path, name))
    elif isinstance(value, list) and "properties" in complete.get("items", {}):
        for index, item in enumerate(value):
            yield from check_hidden(item, shown["items"], complete["items"], f"{path}[{index}]")


def _has_rules(schema: Schema) -> bool:
    """Whether looking into the items can find anything: literal lists may be long."""
    return "items" in schema and ("properties" in schema["items"] or "x-kubernetes-validations" in schema["items"])


def _holds(program: cel.Program, value: Any) -> bool:
    try:
        return program.execute({"self": value}) is True
    except (RuntimeError, TypeError, ValueError):
        return False  # as for the API server: a rule that cannot be evaluated does not hold


@cache
def _program(rule: str) -> cel.Program | None:
    """Return a compiled rule; None if it is about a change."""
    program = cel.compile(rule)
    return None if "oldSelf" in program.variables() else program


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    """Return a pattern with the API server's meaning (RE2): ASCII classes, ``$`` is the very end."""
    if pattern.endswith("$") and not pattern.endswith(r"\$"):
        pattern = pattern[:-1] + r"\Z"
    return re.compile(pattern, re.ASCII)


def _json_type(value: Any) -> str:
    return next((name for kind, name in JSON_TYPES if isinstance(value, kind)), type(value).__name__)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
