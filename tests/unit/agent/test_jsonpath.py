"""A path names one value inside a result, or says why it does not."""

from __future__ import annotations

from typing import Any

import pytest

from celery_patterns.agent import jsonpath

VALUE: dict[str, Any] = {
    "rows": [{"id": 1, "full name": "Ada"}, {"id": 2, "full name": "Bob"}],
    "it's": {"a.b": {"": "empty"}},
    "größe": 3,
    "none": None,
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$", VALUE),
        ("$.rows[0].id", 1),
        ("$.rows[-1]['full name']", "Bob"),
        ("$['rows'][1][\"id\"]", 2),
        (r"$['it\'s']['a.b']['']", "empty"),
        ("$.größe", 3),
        ("$['gr\\u00f6\\u00dfe']", 3),
        ("$.none", None),
        ("$[ 'rows' ][ 0 ]", {"id": 1, "full name": "Ada"}),
    ],
)
def test_path_names_a_value(path: str, expected: Any) -> None:
    assert jsonpath.select(VALUE, path) == expected


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("$.rows[2]", "path '$.rows[2]': there is no [2] in the array at $['rows']"),
        ("$.rows[-3]", "path '$.rows[-3]': there is no [-3] in the array at $['rows']"),
        ("$.rows.id", "path '$.rows.id': there is no ['id'] in the array at $['rows']"),
        ("$.none.x", "path '$.none.x': there is no ['x'] in the null at $['none']"),
        ("$[0]", "path '$[0]': there is no [0] in the object at $"),
        ("$.größe[0]", "path '$.größe[0]': there is no [0] in the number at $['größe']"),
    ],
)
def test_path_that_leads_nowhere_says_how_far_it_leads(path: str, sentence: str) -> None:
    with pytest.raises(LookupError) as raised:
        jsonpath.select(VALUE, path)
    assert raised.value.args[0] == sentence


@pytest.mark.parametrize(
    "path", ["", "rows", "$rows", "$.", "$..rows", "$.rows[*]", "$.rows[0:1]", "$[?@.id]", "$[01]", "$['a"]
)
def test_path_that_could_name_many_values_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path") as raised:
        jsonpath.parse(path)
    assert repr(path) in str(raised.value)
