"""Every log line is JSON, whoever logs, and holds no credentials."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from typing_extensions import override

from celery_operator.adapters.logging import configure_logging, mask_credentials

URL = "redis://me:secret@host:6379/0"
MASKED = "redis://***@host:6379/0"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = io.StringIO()
    configure_logging("info", output="json", stream=written)
    yield written
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_own_records_are_json_with_what_was_bound(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(workflow="a/b"):
        structlog.get_logger("x.y").info("published", tasks=3, queue="q")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "published",
        "level": "info",
        "logger": "x.y",
        "queue": "q",
        "tasks": 3,
        "workflow": "a/b",
    }


def test_libraries_records_are_json_too(stream: io.StringIO) -> None:
    logging.getLogger("lib").warning("cannot reach %s", URL, extra={"where": {"url": URL}})
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["where"]) == (
        f"cannot reach {MASKED}",
        "warning",
        {"url": MASKED},
    )


def test_credentials_are_masked_wherever_they_are(stream: io.StringIO) -> None:
    lost, sentence = ConnectionError(f"refused by {URL}"), f"lost {URL}"
    structlog.get_logger("x").error(sentence, url=URL, many=[URL, {"deep": (URL,)}], error=lost, exc_info=lost)
    text = stream.getvalue()
    assert "secret" not in text
    (line,) = lines(stream)
    assert line["many"] == [MASKED, {"deep": [MASKED]}]
    assert f"ConnectionError: refused by {MASKED}" in line["exception"]


def test_the_level_holds_for_all_and_chatty_libraries_are_quieter(stream: io.StringIO) -> None:
    structlog.get_logger("x").debug("no")
    logging.getLogger("lib").debug("no")
    logging.getLogger("aiohttp.access").info("no")
    logging.getLogger("lib").info("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_a_terminal_gets_text() -> None:
    class Terminal(io.StringIO):
        @override
        def isatty(self) -> bool:
            return True

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = Terminal()
    try:
        configure_logging("INFO", stream=written)
        structlog.get_logger("x").info("hello", url=URL)
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)
    assert "hello" in written.getvalue()
    assert "secret" not in written.getvalue()
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(written.getvalue())


def test_numbers_and_private_fields_are_left_alone() -> None:
    record = {"n": 1, "f": 0.5, "none": None, "yes": True, "_record": URL}
    assert mask_credentials(None, "", dict(record)) == record
