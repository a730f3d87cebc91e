"""Mending a message's arguments before it is sent again."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from celery_patterns import protocol
from celery_patterns.resilience.letters import Letter, OriginalMessage, describe, hash_traceback
from celery_patterns.resilience.patching import PatchError, parse_path, patch, read_arguments
from celery_patterns.resilience.replay import ReplayRefused, Replays, fresh_headers


def message(*args: Any, **kwargs: Any) -> OriginalMessage:
    embed = {"callbacks": None, "errbacks": None, "chain": ["next"], "chord": None}
    body = json.dumps([list(args), kwargs, embed]).encode()
    return OriginalMessage(body, {"task": "t", "id": "1", "argsrepr": "old"}, {"x": 1}, "application/json", "utf-8")


def test_values_are_set_appended_and_deleted_and_all_else_stays() -> None:
    original = message(1, {"deep": [1, 2]}, name="a", old=True)
    mended = patch(
        original,
        ["args[0]=5", 'args[1].deep[-1]="x"', "args[2]=new", "kwargs.name=plain text", 'kwargs["a b"]=null'],
        ["kwargs.old"],
    )
    args, kwargs, embed = read_arguments(mended)
    assert args == [5, {"deep": [1, "x"]}, "new"]
    assert kwargs == {"name": "plain text", "a b": None}
    assert embed["chain"] == ["next"]
    assert mended.headers == {
        "task": "t",
        "id": "1",
        "argsrepr": "(5, {'deep': [1, 'x']}, 'new')",
        "kwargsrepr": "{'name': 'plain text', 'a b': None}",
    }
    assert (mended.properties, mended.content_type) == ({"x": 1}, "application/json")
    assert patch(original) is original


@pytest.mark.parametrize(
    ("assign", "delete", "error"),
    [
        (["args[9]=1"], [], "'args[9]=1': 9 is no position in a list of 1"),
        (["kwargs.a.b=1"], [], "'kwargs.a.b=1': there is no 'a'; there are: name"),
        (["kwargs.name.x=1"], [], "'kwargs.name.x=1': 'x' leads into a str, which has no parts"),
        ([], ["kwargs.other"], "'kwargs.other': there is no 'other'; there are: name"),
        (["args"], [], "expected path=value such as args[0]=5 or kwargs.name=x, got 'args'"),
        (["args=[1]"], [], "expected a path into args or kwargs such as args[0] or kwargs.name, got 'args'"),
        (["task.name=1"], [], "expected a path into args or kwargs such as args[0] or kwargs.name, got 'task.name'"),
        (["args[x]=1"], [], "expected a path such as args[0] or kwargs.user.name, got 'args[x]'"),
    ],
)
def test_patch_that_does_not_fit_says_so(assign: list[str], delete: list[str], error: str) -> None:
    with pytest.raises(PatchError) as caught:
        patch(message(1, name="a"), assign, delete)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("kind", "body", "error"),
    [
        ("application/x-python-serialize", b"cos\nsystem\n(S'false'\ntR.", "is not read: only application/json"),
        ("application/data", b"signed", "a patch would break its signature"),
        ("application/json", b"{", "the message's body cannot be read"),
        ("application/json", b"[1, 2]", "is no task message of protocol 2"),
        (None, b"", "a message of content type '' is not read"),
    ],
)
def test_what_cannot_be_read_safely_is_not_patched(kind: str | None, body: bytes, error: str) -> None:
    with pytest.raises(PatchError, match=error):
        patch(OriginalMessage(body, {}, {}, kind, "utf-8"), ["args[0]=1"])


def test_compressed_message_is_mended_uncompressed() -> None:
    plain = message(1)
    packed = OriginalMessage(
        zlib.compress(plain.body),
        {**plain.headers, "compression": "application/x-gzip"},
        {},
        "application/json",
        "utf-8",
    )
    mended = patch(packed, ["args[0]=2"])
    assert "compression" not in mended.headers
    assert read_arguments(mended)[0] == [2]


@pytest.mark.parametrize(
    ("kind", "body", "error"),
    [
        ("application/x-gzip", zlib.compress(b" " * 20 * 2**20), "more than 16777216 bytes decompressed"),
        ("application/x-gzip", zlib.compress(b"[[], {}, {}]")[:-3], "its compressed body ends too early"),
        ("application/x-gzip", b"no zlib", "its compressed body is damaged"),
        ("application/x-lzma", b"no lzma", "its compressed body is damaged"),
        ("bzip2", b"no bzip2", "its compressed body is damaged"),
        ("zipper", b"", "there is no decompressor for 'zipper'"),
        (7, b"", "there is no decompressor for 7"),
    ],
    ids=["a bomb", "cut off", "damaged zlib", "damaged lzma", "damaged bzip2", "unknown", "a number"],
)
def test_what_cannot_be_decompressed_within_bounds_is_not_patched(kind: Any, body: bytes, error: str) -> None:
    packed = OriginalMessage(body, {"compression": kind}, {}, "application/json", "utf-8")
    with pytest.raises(PatchError, match=f"the message's body cannot be read: {error}"):
        patch(packed, ["args[0]=2"])


@given(st.text())
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        steps = parse_path(text)
    except PatchError:
        return
    assert steps[0] in ("args", "kwargs")
    assert len(steps) >= 2


TEXT = st.text(max_size=5)
JSON = st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT, max_size=2) | st.dictionaries(TEXT, TEXT)


@given(args=st.lists(JSON, max_size=3), kwargs=st.dictionaries(TEXT, JSON), headers=st.dictionaries(TEXT, JSON))
def test_letter_comes_back_as_it_was_kept(args: list[Any], kwargs: dict[str, Any], headers: dict[str, Any]) -> None:
    original = OriginalMessage(
        json.dumps([args, kwargs, {}]).encode(), headers, {"priority": 3}, "application/json", "utf-8"
    )
    letter = Letter("", "q", "failed", original, error="E: é", attempts=3, worker="w@h", traceback_hash="abc")
    fields = {
        name.encode(): value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
        for name, value in letter.to_fields().items()
    }
    back = Letter.from_fields("1700000000000-3", fields)
    assert back == Letter("1700000000000-3", "q", "failed", original, "E: é", "", "abc", 3, "w@h", 1_700_000_000_000)


def test_entry_that_is_no_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="the entry 1-1 is no dead letter"):
        Letter.from_fields("1-1", {b"queue": b"q"})


def test_traceback_hash_is_of_places_and_type_only() -> None:
    first = 'File "/app/a.py", line 3, in charge\n  x\nFile "/app/b.py", line 9, in pay\n  y\nValueError: 7'
    moved = first.replace("line 9", "line 12").replace("ValueError: 7", "ValueError: 8")
    assert hash_traceback(first, "ValueError: 7") == hash_traceback(moved, "ValueError: 8")
    assert hash_traceback(first, "ValueError: 7") != hash_traceback(first, "KeyError: 7")
    assert hash_traceback(first, "ValueError: 7") != hash_traceback(first.replace("pay", "refund"), "ValueError: 7")
    assert hash_traceback("", "ValueError") == ""


def test_error_whose_text_fails_is_described() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:  # type: ignore[explicit-override]
            raise RuntimeError

    assert describe(MuteError()) == "MuteError: (no readable text)"
    assert (describe(KeyError()), describe(None)) == ("KeyError", "")


def test_replay_leaves_the_former_life_behind() -> None:
    headers = {
        "task": "t",
        "id": "1",
        "retries": 4,
        "eta": "x",
        "expires": "y",
        "x-death": [],
        "redelivered": True,
        "mine": 1,
    }
    assert fresh_headers(OriginalMessage(b"", headers)) == {"task": "t", "id": "1", "retries": 0, "mine": 1}
    assert fresh_headers(OriginalMessage(b"", {"mine": 1})) == {"mine": 1}


def test_step_of_a_workflow_is_not_replayed() -> None:
    letter = Letter("1-1", "q", "failed", OriginalMessage(b"", {"id": "7", protocol.TASK_HEADER: {"v": 1}}))
    with Replays(Celery(broker="memory://")) as replays:
        with pytest.raises(ReplayRefused, match="the task 7 is a step of a workflow"):
            replays.send(letter)
        assert replays.send(replace(letter, message=OriginalMessage(b"[[], {}, {}]", {"id": "7"}))) == "q"
