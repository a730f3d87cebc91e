"""What is stored apart comes back as it was, also while the same is stored again; and who gets a result is found."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery, chain, chord, group
from celery.app.task import Context
from celery.result import AsyncResult
from kombu.exceptions import ContentDisallowed

from celery_patterns.tasks import PatternTask, PayloadLimit, claims, followers, install
from celery_patterns.tasks.errors import PayloadUnavailable
from celery_patterns.tasks.results import ExchangingGroup, ExchangingSet

TEXT = "ä" * 200_000


def test_value_can_be_read_while_the_same_is_stored_again(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    encoded = claims.encode(TEXT, "json")
    claim = claims.claim_in(claims.store(folder, encoded)) or {}
    stop = threading.Event()

    def store_again() -> None:
        while not stop.is_set():
            claims.store(folder, encoded)

    others = [threading.Thread(target=store_again) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for _ in range(100):
            assert claims.fetch(folder, claim, "it", ["json"]) == TEXT
    finally:
        stop.set()
        for other in others:
            other.join()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [claim["path"].split("/")[1]]


def test_value_of_a_serializer_that_writes_bytes_comes_back_only_where_that_is_accepted(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    claim = claims.claim_in(claims.store(folder, claims.encode({1, 2}, "pickle"))) or {}
    assert claims.fetch(folder, claim, "it", ["json", "pickle"]) == {1, 2}
    with pytest.raises(ContentDisallowed, match="pickle"):
        claims.fetch(folder, claim, "it", ["json"])


@pytest.mark.parametrize("path", ["../x", "2026-01-01/../../etc", "/etc/passwd", "a/b/c", ""])
def test_claim_that_would_lead_out_of_the_folder_is_refused(path: str) -> None:
    with pytest.raises(PayloadUnavailable, match="malformed claim"):
        claims.claim_in({claims.CLAIM: {"path": path}})


def produce() -> None:
    """Do nothing."""


def test_application_that_declares_such_a_task_exchanges_claims_without_install_and_keeps_classes_of_its_own() -> None:
    class Mine(AsyncResult):  # type: ignore[misc]
        pass

    with Celery("declares", set_as_current=False) as app:
        app.AsyncResult = app.subclass_with_self(Mine)
        app.task(base=PatternTask, name="produce", shared=False, policies=[PayloadLimit(results="1KB")])(produce)
        app.finalize()
        kinds = [app.AsyncResult, app.ResultSet, app.GroupResult]
        assert [kind.__mro__[1] for kind in kinds] == [Mine, ExchangingSet, ExchangingGroup]
        install(app)
        assert [app.AsyncResult, app.ResultSet, app.GroupResult] == kinds


def test_who_gets_a_result_is_found_in_every_canvas() -> None:
    """Each signature with the tasks that get the value it is called with; as it stands in a message."""
    with Celery("followers", set_as_current=False) as app:
        a, b, c = (app.signature(name) for name in "abc")
        canvases = [
            (a, ["a"]),
            (app.signature("a", immutable=True), []),
            (a | b, ["a"]),
            (group(a, b | c), ["a", "b"]),
            (chord([a, b], c), ["a", "b"]),
            (chain(group(a, b), c), ["a", "b"]),
            (group(a, group(b, app.signature("c", immutable=True))), ["a", "b"]),
        ]
        for signature, names in canvases:
            sent = json.loads(json.dumps(signature))
            asked: list[str] = []
            for request in ({"chain": [dict(a), sent]}, {"callbacks": [sent]}, {"chord": sent}):
                asked.clear()
                assert followers.hindrance(Context(request), noting(asked)) is None
                assert asked == names, signature


def noting(names: list[str]) -> Callable[[str], bool]:
    """Note who is asked about, and say yes."""

    def exchanges(name: str) -> bool:
        names.append(name)
        return True

    return exchanges
