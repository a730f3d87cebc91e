"""From pydantic's JSON schema to the structural OpenAPI v3 schema that a CustomResourceDefinition may hold.

What pydantic writes is JSON schema 2020-12: references, ``anyOf`` with ``null``, titles. The API server takes none.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel

from celery_operator.api import API_VERSION
from celery_operator.api.model import MAX_NAME_LENGTH, ApiModel

Schema = dict[str, Any]
"""A JSON object that is a schema."""

PRESERVE = "x-kubernetes-preserve-unknown-fields"
SHALLOW_KEY = "x-shallow"
"""See ``model.SHALLOW``."""

KEYWORDS = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "nullable",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    PRESERVE,
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
    "required",
    "items",
    "properties",
)
"""What our schemas may hold, in the order in which it is written."""

DROPPED = frozenset({"title", "$defs", "additionalProperties", "const", SHALLOW_KEY})
"""Keywords that the API server refuses or that tell it nothing; what they mean is expressed otherwise.

``additionalProperties: false`` may not stand beside ``properties``; the API server handles unknown fields itself.
"""

NAME_RULE = {
    "rule": f"size(self.metadata.name) <= {MAX_NAME_LENGTH}",
    "message": f"metadata.name must have at most {MAX_NAME_LENGTH} characters: longer names are derived from it",
}


@cache
def resource_schema(model: type[ApiModel], *, complete: bool = False) -> Schema:
    """Return the structural schema of a whole resource: apiVersion, kind, metadata, and the model's spec and status.

    ``complete`` is as in ``structural_schema``. The answer is cached and shared: do not change it. Raises TypeError if
    the model cannot be expressed.
    """
    body = structural_schema(model, complete=complete)
    return {
        "description": body["description"],
        "type": "object",
        "x-kubernetes-validations": [NAME_RULE],
        "required": ["metadata", *body["required"]],
        "properties": {
            "apiVersion": {"description": f"Always `{API_VERSION}`.", "type": "string", "maxLength": 253},
            "kind": {"description": f"Always `{model.__name__}`.", "type": "string", "maxLength": 63},
            "metadata": {"type": "object"},
            **body["properties"],
        },
    }


def structural_schema(model: type[BaseModel], *, complete: bool = False) -> Schema:
    """Return the structural schema of a model: no references, no null alternatives, no titles.

    A model's fields are described where it first occurs and not again, so that a resource in which a task can stand in
    many places stays small. ``complete`` writes out what is marked shallow too: not what the CRD holds, but what the
    operator accepts. Raises TypeError for unions and unknown keywords, which structural schemas cannot express.
    """
    source = model.model_json_schema(by_alias=True, mode="validation")
    return _Inliner(source.get("$defs", {}), complete=complete).expand(source, _Place(model.__name__))


class _Place(NamedTuple):
    """Where a node stands, and how much of it is wanted."""

    path: str
    describe: bool = True

    def below(self, part: str, *, describe: bool) -> _Place:
        return _Place(f"{self.path}{part}", self.describe and describe)


class _Inliner:
    """Replaces references by what they refer to, and remembers which models were described already."""

    def __init__(self, definitions: dict[str, Schema], *, complete: bool) -> None:
        self._definitions = definitions
        self._complete = complete
        self._described: set[str] = set()

    def expand(self, node: Schema, place: _Place) -> Schema:
        """Return a node and all below it without references."""
        node = _without_null(node, place.path)
        shallow = bool(node.get(SHALLOW_KEY)) and not self._complete
        describe_below = place.describe and not shallow
        if "$ref" in node:
            name = node["$ref"].removeprefix("#/$defs/")
            if describe_below:
                describe_below = name not in self._described
                self._described.add(name)
            node = self._definitions[name] | {key: value for key, value in node.items() if key != "$ref"}
        result = _keywords(node, place)
        if "items" in node:
            result["items"] = self.expand(node["items"], place.below("[]", describe=describe_below))
        if "properties" in node:
            result["properties"] = {
                name: self.expand(value, place.below(f".{name}", describe=describe_below))
                for name, value in node["properties"].items()
            }
        if shallow and "properties" in result:
            result["properties"] = {name: _opaque(value) for name, value in result["properties"].items()}
            result.pop("x-kubernetes-validations", None)
        elif shallow:
            result = _opaque(result)
        return {key: result[key] for key in sorted(result, key=KEYWORDS.index)}


def _keywords(node: Schema, place: _Place) -> Schema:
    """Return what a node says about itself, not about what is below it."""
    result = {key: value for key, value in node.items() if key not in DROPPED | {"items", "properties", "default"}}
    unknown = sorted(set(result) - set(KEYWORDS))
    if unknown:
        raise TypeError(f"{place.path}: {', '.join(unknown)} cannot stand in a structural schema")
    description = result.pop("description", None)
    if description is not None and place.describe:
        result["description"] = _plain(description)
    if "const" in node:
        result["enum"] = [node["const"]]
    default = without_nulls(node.get("default"))
    if default not in (None, [], {}):  # an empty list is what an absent one means
        result["default"] = default
    if node.get("minLength") == 1 and "pattern" in node and not re.search(node["pattern"], ""):
        del result["minLength"]  # the pattern says it already
    return result


def _opaque(node: Schema) -> Schema:
    """Return a property whose own type is checked, but not what is in it."""
    if node.get("type") == "object":
        return {"type": "object", PRESERVE: True}
    if node.get("type") == "array" and node["items"].get("type") == "object":
        return {key: value for key, value in node.items() if key != "default"} | {"items": _opaque(node["items"])}
    return node


def _without_null(node: Schema, path: str) -> Schema:
    """Return ``anyOf: [X, null]`` as X with the siblings laid over it."""
    if "anyOf" not in node:
        return node
    choices = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
    if len(choices) != 1:
        raise TypeError(f"{path} is a union: structural schemas have none; use one object with a rule instead")
    return {**choices[0], **{key: value for key, value in node.items() if key != "anyOf"}}


def without_nulls(value: Any) -> Any:
    """Return a JSON value whose objects have no null members: absent is how this API says unset."""
    if isinstance(value, dict):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [without_nulls(member) for member in value]
    return value


def _plain(text: str) -> str:
    """Return a docstring as one paragraph of plain text, as ``kubectl explain`` shows it."""
    return " ".join(text.replace("``", "`").split())
