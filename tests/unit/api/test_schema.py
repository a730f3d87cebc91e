from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import ConfigDict, Field

from celery_operator.api.definitions import KINDS
from celery_operator.api.model import SHALLOW, ApiModel, JsonObject, JsonValue, rules
from celery_operator.api.schema import PRESERVE, structural_schema, without_nulls

CRDS = Path(__file__).resolve().parents[3] / "crds"
LARGEST = {"celeryapps.yaml": 20_000, "celeryworkerpools.yaml": 60_000, "celeryworkflows.yaml": 100_000}
"""Bytes. A CRD is loaded by every API server and client that discovers it."""


class Inner(ApiModel):
    """Something inside."""

    number: int = 3
    """How many ``x``."""


class Outer(ApiModel):
    """Something outside."""

    model_config = ConfigDict(json_schema_extra=rules(("self.choice == 'a'", "choose a")))

    choice: Literal["a", "b"]
    only: Literal["one"] = "one"
    text: Annotated[str, Field(min_length=1, max_length=5, pattern="^x")] | None = None
    any_value: JsonValue = None
    any_object: JsonObject | None = None
    first_inner: Inner = Inner()
    second: Inner | None = None
    """Another one."""
    inners: Annotated[list[Inner], Field(max_length=2)] = []  # noqa: RUF012 - pydantic copies defaults
    deep: Annotated[list[Inner], Field(max_length=2), SHALLOW] | None = None
    deeper: Annotated[Inner, SHALLOW] | None = None


def test_every_rewrite_of_a_models_schema() -> None:
    described = {"description": "How many `x`.", "type": "integer", "default": 3}
    plain = {"type": "integer", "default": 3}
    assert structural_schema(Outer) == {
        "description": "Something outside.",
        "type": "object",
        "x-kubernetes-validations": [{"rule": "self.choice == 'a'", "message": "choose a"}],
        "required": ["choice"],
        "properties": {
            "choice": {"type": "string", "enum": ["a", "b"]},
            "only": {"type": "string", "enum": ["one"], "default": "one"},
            "text": {"type": "string", "pattern": "^x", "maxLength": 5},
            "anyValue": {"nullable": True, PRESERVE: True},
            "anyObject": {"type": "object", PRESERVE: True},
            "firstInner": {
                "description": "Something inside.",
                "type": "object",
                "default": {"number": 3},
                "properties": {"number": described},
            },
            "second": {"description": "Another one.", "type": "object", "properties": {"number": plain}},
            "inners": {
                "type": "array",
                "maxItems": 2,
                "items": {"description": "Something inside.", "type": "object", "properties": {"number": plain}},
            },
            "deep": {"type": "array", "maxItems": 2, "items": {"type": "object", PRESERVE: True}},
            "deeper": {"description": "Something inside.", "type": "object", "properties": {"number": plain}},
        },
    }


def test_a_complete_schema_writes_out_what_is_shallow() -> None:
    deep = structural_schema(Outer, complete=True)["properties"]["deep"]["items"]
    assert deep["properties"] == {"number": {"type": "integer", "default": 3}}


def test_a_union_is_refused_with_its_place() -> None:
    class Union(ApiModel):
        """Two things."""

        value: int | str

    with pytest.raises(TypeError, match=r"Union\.value is a union"):
        structural_schema(Union)


def test_a_keyword_that_the_api_server_would_refuse_is_refused_with_its_place() -> None:
    class Multiple(ApiModel):
        """A multiple."""

        value: Annotated[int, Field(multiple_of=2)]

    with pytest.raises(TypeError, match=r"Multiple\.value: multipleOf"):
        structural_schema(Multiple)


def test_nulls_inside_defaults_are_left_out() -> None:
    assert without_nulls({"a": None, "b": [{"c": None, "d": 1}]}) == {"b": [{"d": 1}]}


def schemas(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    if "items" in node:
        yield from schemas(node["items"], f"{path}[]")
    for name, member in node.get("properties", {}).items():
        yield from schemas(member, f"{path}.{name}")


def crd(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CRDS / name).read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("name", sorted(LARGEST))
def test_every_list_and_string_of_a_crd_is_bounded_and_no_field_is_a_yaml_boolean(name: str) -> None:
    """The API server's cost estimate for rules needs the bounds; YAML 1.1 reads a field named ``on`` as true."""
    root = crd(name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    nodes = list(schemas(root, ""))
    assert [path for path, node in nodes if node.get("type") == "array" and "maxItems" not in node] == []
    assert [
        path for path, node in nodes if node.get("type") == "string" and not {"maxLength", "enum"} & set(node)
    ] == []
    assert [path for path, node in nodes if node.get("type") is None and not node.get(PRESERVE)] == []
    assert [path for path, _ in nodes if path.rsplit(".", 1)[-1] in {"on", "off", "yes", "no", "y", "n"}] == []


def test_the_crds_are_small_and_there_is_one_for_each_kind() -> None:
    assert {path.name for path in CRDS.iterdir()} == set(LARGEST) == {f"{kind.plural}.yaml" for kind in KINDS}
    sizes = {path.name: path.stat().st_size for path in CRDS.iterdir()}
    assert {name: size for name, size in sizes.items() if size > LARGEST[name]} == {}


@pytest.mark.parametrize("name", sorted(LARGEST))
def test_conditions_are_a_map_by_type_and_status_is_a_subresource(name: str) -> None:
    version = crd(name)["spec"]["versions"][0]
    conditions = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert version["subresources"]["status"] == {}


def test_names_short_names_and_category() -> None:
    names = {name: crd(name)["spec"]["names"] for name in LARGEST}
    assert {found["kind"]: (found["shortNames"], found["categories"]) for found in names.values()} == {
        "CeleryApp": (["celapp"], ["celery"]),
        "CeleryWorkerPool": (["celpool"], ["celery"]),
        "CeleryWorkflow": (["celwf"], ["celery"]),
    }


def test_every_printer_column_and_scale_path_exists_in_the_schema() -> None:
    for kind in KINDS:
        version = crd(f"{kind.plural}.yaml")["spec"]["versions"][0]
        fields = {path.replace("[]", "") for path, _ in schemas(version["schema"]["openAPIV3Schema"], "")}
        paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
        paths += version["subresources"].get("scale", {}).values()
        named = {_without_filters(path) for path in paths}
        assert named - {".metadata.creationTimestamp"} <= fields


def _without_filters(path: str) -> str:
    while "[" in path:
        before, _, rest = path.partition("[")
        path = before + rest.partition("]")[2]
    return path
