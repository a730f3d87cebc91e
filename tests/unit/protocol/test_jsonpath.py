"""Paths select one value, as RFC 9535 has it, or say why not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_patterns.jsonpath import PathError, Segment, join, parse, select, to_text

VALUE = {"a": {"b c": [10, {"d": None}]}, "é": 1, "it's": 2, 'say "hi"': 3, "tab\t": 4, "": 5}


@pytest.mark.parametrize(
    ("path", "selected"),
    [
        ("$", VALUE),
        ("$.a['b c'][0]", 10),
        ('$["a"]["b c"][-1].d', None),
        ("$.é", 1),
        (r"$['it\'s']", 2),
        ('$["it\'s"]', 2),
        ("$['say \"hi\"']", 3),
        (r'$["say \"hi\""]', 3),
        (r"$['tab\t']", 4),
        ("$[ 'a' ][ 'b c' ][ 0 ]", 10),
        ("$['']", 5),
        (r"$['\u00e9']", 1),
    ],
)
def test_selects(path: str, selected: object) -> None:
    assert select(VALUE, path) == selected


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("a", "the path 'a' must begin with $"),
        *(
            (
                path,
                f"the path {path!r} cannot be read at character {at}: use .name, ['name'] and [index] "
                "(wildcards, slices and filters select many values and are not served)",
            )
            for path, at in [
                ("$.a.*", 4),
                ("$..a", 2),
                ("$[0:2]", 2),
                ("$[?@.a]", 2),
                ("$[01]", 2),
                ("$[-0]", 2),
                ("$.a b", 4),
                ("$.1", 2),
                ("$['a", 2),
                ("$a", 2),
                ("$[9999999999999999999]", 2),
            ]
        ),
        (r"$['\q']", r"the path \"$['\\q']\" has a name with a wrong escape: '\\q'".replace(r"\"", '"')),
    ],
)
def test_refuses_what_is_no_path_or_selects_many_values(path: str, problem: str) -> None:
    with pytest.raises(PathError) as caught:
        parse(path)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("$.x", "the path '$.x' selects nothing: $ is an object and has no member 'x'"),
        ("$.a[0]", "the path '$.a[0]' selects nothing: $.a is an object and has no element 0"),
        ("$.a['b c'][2]", 'the path "$.a[\'b c\'][2]" selects nothing: $.a["b c"] is a list of 2 and has no element 2'),
        (
            "$.a['b c'][-3]",
            'the path "$.a[\'b c\'][-3]" selects nothing: $.a["b c"] is a list of 2 and has no element -3',
        ),
        ("$.é.x", "the path '$.é.x' selects nothing: $.é is a number and has no member 'x'"),
    ],
)
def test_a_path_that_selects_nothing_says_where_it_stopped_and_shows_no_value(path: str, problem: str) -> None:
    with pytest.raises(PathError) as caught:
        select(VALUE, path)
    assert str(caught.value) == problem


SEGMENTS = st.lists(st.one_of(st.text(st.characters(codec="utf-8"), max_size=5), st.integers(-99, 99)), max_size=4).map(
    tuple
)


@given(SEGMENTS, SEGMENTS)
def test_any_names_and_indexes_survive_being_written_and_joined(
    first: tuple[Segment, ...], second: tuple[Segment, ...]
) -> None:
    path = join(to_text(first), to_text(second))
    assert parse(path) == (*first, *second)
