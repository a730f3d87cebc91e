"""What every API model has in common: camelCase names, frozen values, no unknown fields, bounded text and lists."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

MAX_NAME_LENGTH = 47
"""Longest metadata.name: 63 characters less the suffixes of the objects that are derived from it."""

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

StepName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
"""A step's name: a DNS label, so that it can be part of derived names."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""The name of another Kubernetes object in the same namespace."""

ParameterName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
QueueName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s,\x00-\x1f]+$")]
"""A Celery queue. Commas and white space would break ``celery worker -Q``."""
TaskName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^\S+$")]
Path = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^\$")]
"""A JSONPath (RFC 9535); ``$`` is the whole value."""
Url = Annotated[str, Field(min_length=1, max_length=2048)]
Message = Annotated[str, Field(max_length=256)]
Timestamp = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]

JsonValue = Annotated[Any, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True, "nullable": True})]
"""Any JSON value; the API server keeps it as it is."""
JsonObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""Any JSON object; the API server keeps it as it is."""

NAMED = Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]})
"""For lists of objects whose names have to differ."""
SHALLOW = Field(json_schema_extra={"x-shallow": True})
"""For what nests deeper than the CRD describes: fields are named there, but not what these hold.

A task may stand in many places; written out in each, the CRD would be several times as large. What the API server then
cannot check, ``validation.validate_resource`` does.
"""


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return the schema extra that carries CEL rules: pairs of (rule, message)."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


class ApiModel(BaseModel):
    """A part of a resource. Frozen: planners never change what they are given."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        str_strip_whitespace=False,
    )

    def to_resource(self) -> dict[str, Any]:
        """Return the JSON form, camelCase, without the fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class NamedRef(ApiModel):
    """A reference by name to an object in the same namespace."""

    name: ObjectName
