"""No result is larger than its policy allows: it is stored apart where who reads it can exchange it, else it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from celery_patterns import protocol
from celery_patterns.resilience.places import letters_of
from celery_patterns.store import Store, StoreSettings
from celery_patterns.tasks import install
from celery_patterns.tasks.claims import CLAIM
from celery_patterns.tasks.errors import PayloadUnavailable, ResultTooLarge
from celery_patterns.tasks.patterns import patterns_of
from patterns.tasks import shop
from servers import eventually

Ledger = Callable[..., list[dict[str, Any]]]

pytestmark = pytest.mark.usefixtures("worker")

SIZE = 5_000
UID = "6f1c1a52-4f0a-4f3e-9a39-0d8f1f9f2a11"


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def stored(task_id: str) -> Any:
    """Return what stands in the result backend."""
    return shop.app.backend.get_task_meta(task_id)["result"]


def take_away(folder: Path, queue: str) -> Path:
    """Let nothing be written to the folder until what is returned is unlinked."""
    assert shop.produce.apply_async(["x", SIZE], queue=queue).get(timeout=60) == "x" * SIZE
    [today] = folder.iterdir()
    today.rename(folder / "aside")
    today.touch()
    return today


def test_large_result_is_stored_apart_and_its_readers_see_nothing_of_it(blobs: Path, blob_worker: str) -> None:
    sent = shop.produce.apply_async(["x", SIZE], queue=blob_worker)
    assert sent.get(timeout=60) == "x" * SIZE
    [file] = files_in(blobs)
    assert stored(sent.id) == {
        CLAIM: {"path": f"{file.parent.name}/{file.name}", "size": file.stat().st_size, "result": True}
    }
    by_id = shop.app.AsyncResult(sent.id)
    told: dict[str, Any] = {}
    assert by_id.get(callback=told.__setitem__) == by_id.result == by_id.info == "x" * SIZE
    assert told == {sent.id: "x" * SIZE}


def test_small_result_stays_where_results_are(blobs: Path, blob_worker: str) -> None:
    sent = shop.produce.apply_async(["x", 100], queue=blob_worker)
    assert sent.get(timeout=60) == stored(sent.id) == "x" * 100
    assert files_in(blobs) == []


def test_results_of_groups_and_chords_are_exchanged(blobs: Path, blob_worker: str) -> None:
    header = [shop.produce.s(letter, size).set(queue=blob_worker) for letter, size in (("a", SIZE), ("b", 7))]
    together = group(header).apply_async()
    assert together.get(timeout=60) == ["a" * SIZE, "b" * 7]
    assert together.join(timeout=60) == ["a" * SIZE, "b" * 7]
    assert len(files_in(blobs)) == 1
    body = shop.weigh.s().set(queue=blob_worker) | shop.bare.s().set(queue=blob_worker)
    assert chord(header)(body).get(timeout=60) == [SIZE, 7]


@pytest.mark.usefixtures("blobs")
def test_next_task_of_a_chain_gets_the_value(blob_worker: str) -> None:
    first = shop.produce.s("x", SIZE).set(queue=blob_worker)
    assert chain(first, shop.weigh.s().set(queue=blob_worker))().get(timeout=60) == SIZE
    apart = group(shop.weigh.s().set(queue=blob_worker), shop.bare.si("other").set(queue=blob_worker))
    assert chain(first, apart)().get(timeout=60) == [SIZE, "other"]


@pytest.mark.parametrize("how", ["chain", "link", "chord", "group"])
def test_who_passes_it_on_to_a_task_that_cannot_exchange_it_fails(blobs: Path, blob_worker: str, how: str) -> None:
    first, plain = shop.produce.s("x", SIZE).set(queue=blob_worker), shop.bare.s().set(queue=blob_worker)
    if how == "link":
        whole = sent = first.apply_async(link=plain)
    elif how == "chord":
        whole = chord([first, first])(plain).parent
        sent = whole[0]
    else:
        whole = chain(first, plain if how == "chain" else group(shop.weigh.s(), plain))()
        sent = whole.parent
    with pytest.raises(ResultTooLarge, match="it is passed on to bare, which has no PayloadLimit here"):
        sent.get(timeout=60)
    assert files_in(blobs) == []
    whole.forget()  # what waits for those that never end would do so for ever


def test_without_a_place_the_task_has_failed_and_is_not_tried_again(ledger: Ledger, key: str) -> None:
    """Although its Retry says so of every error; what ran is kept as any failure is."""
    sent = shop.produce.delay(key, SIZE)
    with pytest.raises(
        ResultTooLarge,
        match=r"the result of produce has 50\d\d bytes, and 1000 are allowed: .* CELERY_PATTERNS_BLOB_URL .* reference",
    ):
        sent.get(timeout=60)
    letters = letters_of(shop.app)
    [letter] = eventually(lambda: [each for each in letters.scan("celery") if each.message.task_id == sent.id])
    assert (letter.reason, letter.attempts, letter.error.split(" has ")[0]) == (
        "failed",
        1,
        "ResultTooLarge: the result of produce",
    )
    assert len(ledger(key, "produce")) == 1


@pytest.mark.usefixtures("blobs")
def test_workflow_reads_results_itself_so_none_of_its_tasks_has_a_large_one(blob_worker: str) -> None:
    identity = protocol.TaskIdentity(uid=UID, run=1, step="load", index=0, attempt=1)
    headers = {protocol.TASK_HEADER: identity.to_header()}
    with pytest.raises(ResultTooLarge, match="the task is a workflow's"):
        shop.produce.apply_async(["x", SIZE], queue=blob_worker, headers=headers).get(timeout=60)


@pytest.mark.usefixtures("blobs")
def test_call_that_was_done_before_gets_the_same_value(ledger: Ledger, blob_worker: str, key: str) -> None:
    """And where it goes on to a task that cannot exchange it, it fails as the first would have."""
    again = shop.produce_once.s(key, SIZE).set(queue=blob_worker)
    assert [again.delay().get(timeout=60) for _ in range(2)] == [key[0] * SIZE] * 2
    with pytest.raises(ResultTooLarge, match="passed on to bare"):
        chain(again, shop.bare.s().set(queue=blob_worker))().parent.get(timeout=60)
    assert len(ledger(key, "produce")) == 1


def letters_on(task_id: str) -> list[tuple[str, str]]:
    """Return reason and kind of error of a task's dead letters."""
    found = [each for queue in letters_of(shop.app).queues() for each in letters_of(shop.app).scan(queue)]
    return [(each.reason, each.error.split(":")[0]) for each in found if each.message.task_id == task_id]


def test_what_comes_in_a_failures_place_is_bounded_as_a_result_is(
    blobs: Path, blob_worker: str, ledger: Ledger, key: str
) -> None:
    sent = shop.produce_instead.apply_async([key, 0, SIZE], queue=blob_worker)
    assert sent.get(timeout=60) == key[0] * SIZE
    assert [len(files_in(blobs)), list(stored(sent.id))] == [1, [CLAIM]]
    weighed = shop.produce_instead.s(key, 0, SIZE).set(queue=blob_worker) | shop.weigh.s().set(queue=blob_worker)
    assert weighed.delay().get(timeout=60) == SIZE
    small = shop.produce_instead.apply_async([key, 0, 7], queue=blob_worker)
    assert small.get(timeout=60) == stored(small.id) == key[0] * 7
    assert [(each["event"], each.get("error")) for each in ledger(key)] == [("produce", None), ("spare", "Flaky")] * 3
    assert letters_on(sent.id) == []


def test_where_that_is_too_large_the_task_has_failed_and_its_first_error_is_told(ledger: Ledger, key: str) -> None:
    """Nothing takes its place a second time, and it is kept as any failure is."""
    sent = shop.produce_instead.delay(key, 0, SIZE)
    with pytest.raises(ResultTooLarge, match=r"the result of produce_instead has 50\d\d bytes, and 1000 are allowed"):
        sent.get(timeout=60)
    assert eventually(lambda: letters_on(sent.id)) == [("failed", "ResultTooLarge")]
    assert f"Flaky: {key}" in str(sent.traceback)
    assert [each["event"] for each in ledger(key)] == ["produce", "spare"]


@pytest.mark.usefixtures("blobs")
def test_where_it_goes_on_to_a_task_that_cannot_exchange_it_the_task_has_failed(blob_worker: str, key: str) -> None:
    first = shop.produce_instead.s(key, 0, SIZE).set(queue=blob_worker)
    whole = chain(first, shop.bare.s().set(queue=blob_worker))()
    with pytest.raises(ResultTooLarge, match="passed on to bare"):
        whole.parent.get(timeout=60)
    whole.forget()


def test_result_that_is_too_large_is_a_failure_in_whose_place_another_may_come(ledger: Ledger, key: str) -> None:
    sent = shop.produce_instead.delay(key, SIZE, 7)
    assert sent.get(timeout=60) == key[0] * 7
    assert [(each["event"], each.get("error")) for each in ledger(key)] == [
        ("produce", None),
        ("spare", "ResultTooLarge"),
    ]


def test_result_that_nobody_wants_is_not_looked_at(ledger: Ledger, key: str) -> None:
    shop.produce.apply_async([key, SIZE], ignore_result=True)
    done = shop.produce.delay(key, 1)
    assert done.get(timeout=60) == key[0]
    eventually(lambda: len(ledger(key, "produce")) == 2)
    letters = letters_of(shop.app).scan("celery")
    assert [each for each in letters if key in each.message.body.decode()] == []


def test_items_of_batches_are_bounded_one_by_one(blobs: Path, blob_worker: str) -> None:
    sent = [shop.produce_rows.apply_async(kwargs={"size": size}, queue=blob_worker) for size in (SIZE, 7)]
    assert [each.get(timeout=60) for each in sent] == ["r" * SIZE, "r" * 7]
    assert [len(files_in(blobs)), list(stored(sent[0].id))] == [1, [CLAIM]]


def test_item_whose_result_is_too_large_fails_alone() -> None:
    sent = [shop.produce_rows.delay(size=size) for size in (SIZE, 7)]
    with pytest.raises(ResultTooLarge, match="the result of produce_rows has"):
        sent[0].get(timeout=60)
    assert sent[1].get(timeout=60) == "r" * 7


def test_place_that_cannot_be_written_to_is_an_error_like_the_tasks_own(
    blobs: Path, blob_worker: str, ledger: Ledger, key: str
) -> None:
    """Its Retry is asked about it, and the task runs again."""
    today = take_away(blobs, blob_worker)
    sent = shop.produce_patiently.apply_async([key, SIZE], queue=blob_worker)
    eventually(lambda: sent.state == "RETRY")
    today.unlink()
    assert sent.get(timeout=60) == key[0] * SIZE
    assert len(ledger(key, "produce")) > 1


def test_so_it_is_for_what_comes_in_a_failures_place(blobs: Path, blob_worker: str, ledger: Ledger, key: str) -> None:
    today = take_away(blobs, blob_worker)
    sent = shop.produce_instead.apply_async([key, 0, SIZE], queue=blob_worker)
    eventually(lambda: sent.state == "RETRY", what=lambda: f"{sent.state}: {sent.traceback}")
    today.unlink()
    assert sent.get(timeout=60) == key[0] * SIZE
    assert len(ledger(key, "produce")) == len(ledger(key, "spare")) > 1
    assert letters_on(sent.id) == []


def test_so_it_is_for_what_a_call_has_done_before_whose_result_nobody_wanted(
    blobs: Path, blob_worker: str, ledger: Ledger, key: str
) -> None:
    """That was not stored then; and the call itself is not done again."""
    shop.produce_once.apply_async([key, SIZE], queue=blob_worker, ignore_result=True)
    eventually(lambda: ledger(key, "produce"))
    today = take_away(blobs, blob_worker)
    sent = shop.produce_once.apply_async([key, SIZE], queue=blob_worker)
    eventually(lambda: sent.state == "RETRY", what=lambda: f"{sent.state}: {sent.traceback}")
    today.unlink()
    assert sent.get(timeout=60) == key[0] * SIZE
    assert len(ledger(key, "produce")) == 1


def test_reader_is_told_what_is_wrong_with_the_place(blobs: Path, blob_worker: str) -> None:
    sent = shop.produce.apply_async(["x", SIZE], queue=blob_worker)
    eventually(lambda: sent.state == "SUCCESS")
    [file] = files_in(blobs)
    content = file.read_bytes()
    file.write_bytes(b"[]")
    with pytest.raises(PayloadUnavailable, match=f"the result of task {sent.id} at .* is damaged"):
        sent.get(timeout=60)
    file.unlink()
    with pytest.raises(PayloadUnavailable, match=f"the result of task {sent.id} is not at .* any more"):
        shop.app.AsyncResult(sent.id).get(timeout=60)
    file.write_bytes(content)
    assert sent.get(timeout=60) == "x" * SIZE, "what failed is asked again"


def test_application_that_only_reads_needs_install_and_the_folder(blobs: Path, blob_worker: str) -> None:
    sent = shop.produce.apply_async(["x", SIZE], queue=blob_worker)
    sent.get(timeout=60)
    url = shop.app.conf.result_backend
    with Celery("plain", backend=url, set_as_current=False) as plain:
        assert list(plain.AsyncResult(sent.id).get(timeout=60)) == [CLAIM]
    with install(Celery("reader", backend=url, set_as_current=False)) as reader:
        with pytest.raises(PayloadUnavailable, match="set CELERY_PATTERNS_BLOB_URL"):
            reader.AsyncResult(sent.id).get(timeout=60)
        patterns_of(reader)._store = Store(reader, StoreSettings(blob_url=f"file://{blobs}"))
        assert reader.AsyncResult(sent.id).get(timeout=60) == "x" * SIZE
