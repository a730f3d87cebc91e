"""The example tasks: real text, counted."""

from __future__ import annotations

from pathlib import Path

import celery
import kombu
import pytest

from celery_patterns.examples import tasks, words

ROOT = Path(celery.__file__).parent.parent


def test_arithmetic() -> None:
    assert tasks.add(4, 4) == 8
    assert tasks.multiply(6, 7) == 42
    assert tasks.total([1, None, 2.5]) == 3.5


def test_modules_are_those_of_the_installed_packages() -> None:
    names = words.list_modules()
    assert names == sorted(names)
    assert len(names) == len(set(names)) > 200
    assert {"celery/app/task.py", "kombu/connection.py"} <= set(names)
    assert all((ROOT / name).is_file() for name in names)
    assert Path(kombu.__file__).parent.parent == ROOT


def test_words_of_docstrings_and_comments_are_counted_and_code_is_not() -> None:
    counted = words.count("celery/utils/dispatch/signal.py")
    assert counted["receiver"] > 5
    assert all(word == word.lower() for word in counted)
    assert "isinstance" not in counted, "only prose counts"


def test_merging_is_associative_and_tolerates_holes() -> None:
    parts = [{"a": 1, "b": 2}, None, {"b": 3}, {"c": 1}]
    flat = words.merge(parts)
    assert flat == {"a": 1, "b": 5, "c": 1}
    assert words.merge([words.merge(parts[:2]), words.merge(parts[2:])]) == flat


def test_top_orders_by_count_then_word() -> None:
    assert words.top({"b": 2, "a": 2, "c": 3, "d": 1}, 3) == [["c", 3], ["a", 2], ["b", 2]]


@pytest.mark.parametrize("name", ["/etc/passwd", "celery/../../../etc/passwd", "os.py", "celery/none.py", "celery"])
def test_only_modules_of_the_two_packages_are_read(name: str) -> None:
    with pytest.raises((ValueError, OSError)):
        words.count(name)
