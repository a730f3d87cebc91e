"""The store has the API server's manners."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_operator.domain.errors import Conflict, Gone
from celery_operator.local.merge import apply_merge
from celery_operator.local.objects import ObjectStore
from celery_operator.services.ports import Manifest, ObjectKey

KEY = ObjectKey("default", "a")


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def now(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore(Clock())


def thing(kind: str = "CeleryApp", **fields: Any) -> Manifest:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, **fields}


def test_what_is_created_gets_its_metadata_from_the_server(store: ObjectStore) -> None:
    created = store.create(thing(spec={"x": 1}, status={"made": "up"}))
    uid = created["metadata"].pop("uid")
    assert len(uid) == 36
    assert created == thing(spec={"x": 1}) | {
        "metadata": {
            "name": "a",
            "namespace": "default",
            "generation": 1,
            "creationTimestamp": "2026-01-02T03:04:06Z",
            "resourceVersion": "1",
        }
    }


def test_creating_twice_is_a_conflict(store: ObjectStore) -> None:
    store.create(thing())
    with pytest.raises(Conflict):
        store.create(thing())


def test_what_is_handed_out_is_a_copy(store: ObjectStore) -> None:
    created = store.create(thing(spec={"x": [1]}))
    created["spec"]["x"].append(2)
    found = store.get("CeleryApp", KEY)
    assert found is not None
    found["spec"]["x"].append(3)
    assert [each["spec"] for each in store.list("CeleryApp")] == [{"x": [1]}]


def test_only_a_changed_spec_is_a_new_generation(store: ObjectStore) -> None:
    store.apply(thing(spec={"x": 1}))
    labelled = store.apply(thing(spec={"x": 1}) | {"metadata": {"name": "a", "labels": {"l": "1"}}})
    assert (labelled["metadata"]["generation"], labelled["metadata"]["resourceVersion"]) == (1, "2")
    changed = store.apply(thing(spec={"x": 2}) | {"metadata": {"name": "a", "labels": {"l": "1"}}})
    assert (changed["metadata"]["generation"], changed["metadata"]["resourceVersion"]) == (2, "3")


def test_applying_the_same_again_changes_and_tells_nothing(store: ObjectStore) -> None:
    first = store.apply(thing(spec={"x": 1}))
    told: list[Any] = []
    store.watch(lambda *change: told.append(change))
    assert store.apply(thing(spec={"x": 1})) == first
    assert told == []


def test_apply_keeps_what_others_set_and_takes_away_what_it_no_longer_sends(store: ObjectStore) -> None:
    store.apply(thing(spec={"mine": 1, "shared": {"a": 1}}))

    def by_another(manifest: Manifest) -> None:
        manifest["spec"]["theirs"] = 2
        manifest["spec"]["shared"]["b"] = 2

    store.change("CeleryApp", KEY, by_another)
    applied = store.apply(thing(spec={"new": 3}))
    assert applied["spec"] == {"theirs": 2, "shared": {"b": 2}, "new": 3}


def test_apply_with_an_old_resource_version_or_another_uid_is_a_conflict(store: ObjectStore) -> None:
    first = store.apply(thing(spec={"x": 1}))
    store.apply(thing(spec={"x": 2}))
    for field in ("resourceVersion", "uid"):
        wrong = first["metadata"][field] if field == "resourceVersion" else "another"
        with pytest.raises(Conflict):
            store.apply(thing(spec={"x": 3}) | {"metadata": {"name": "a", field: wrong}})


def test_an_update_of_an_old_version_is_a_conflict_and_of_nothing_is_gone(store: ObjectStore) -> None:
    first = store.create(thing(spec={"x": 1}))
    store.apply(thing(spec={"x": 2}))
    with pytest.raises(Conflict):
        store.at_version("CeleryApp", KEY, first["metadata"]["resourceVersion"])
    with pytest.raises(Gone):
        store.at_version("CeleryApp", ObjectKey("default", "none"), "1")


def test_apply_does_not_touch_the_status(store: ObjectStore) -> None:
    store.create(thing(spec={"x": 1}))
    store.change("CeleryApp", KEY, lambda manifest: manifest.update(status={"ok": True}))
    applied = store.apply(thing(spec={"x": 2}, status={"ok": False}))
    assert applied["status"] == {"ok": True}


def test_a_finalizer_holds_a_deleted_object_until_it_is_taken_away(store: ObjectStore) -> None:
    store.create(thing() | {"metadata": {"name": "a", "finalizers": ["f"]}})
    told: list[str] = []
    store.watch(lambda _kind, event, _manifest: told.append(event))
    marked = store.mark_deleted("CeleryApp", KEY)
    assert marked is not None
    assert "deletionTimestamp" in marked["metadata"]
    store.change("CeleryApp", KEY, lambda manifest: manifest["metadata"].update(finalizers=[]))
    assert store.get("CeleryApp", KEY) is None
    assert told == ["MODIFIED", "DELETED"]


def test_watchers_see_every_change_in_order(store: ObjectStore) -> None:
    told: list[tuple[str, str, str]] = []
    store.watch(lambda kind, event, manifest: told.append((kind, event, manifest["metadata"]["resourceVersion"])))
    store.apply(thing(spec={"x": 1}))
    store.apply(thing(spec={"x": 2}))
    store.remove("CeleryApp", KEY)
    assert told == [("CeleryApp", "ADDED", "1"), ("CeleryApp", "MODIFIED", "2"), ("CeleryApp", "DELETED", "2")]


def test_a_secrets_plain_values_are_kept_encoded(store: ObjectStore) -> None:
    data = {"other": "eA==", "block": "ZnJh\nbWVk\n"}
    created = store.create(thing("Secret", stringData={"key": "value"}, data=data))
    assert "stringData" not in created
    assert created["data"] == {"key": "dmFsdWU=", "other": "eA==", "block": "ZnJhbWVk"}


def test_namespaces_are_apart(store: ObjectStore) -> None:
    store.create(thing())
    store.create(thing() | {"metadata": {"name": "a", "namespace": "other"}})
    assert len(store.list("CeleryApp")) == 2
    assert [each["metadata"]["namespace"] for each in store.list("CeleryApp", "other")] == ["other"]


JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@given(before=OBJECTS, applied=OBJECTS)
def test_without_other_managers_the_result_is_what_was_applied_last(
    before: dict[str, Any], applied: dict[str, Any]
) -> None:
    live = apply_merge({}, {}, before)
    assert live == before
    assert apply_merge(live, before, applied) == applied


@given(live=OBJECTS, applied=OBJECTS)
def test_applying_twice_is_applying_once(live: dict[str, Any], applied: dict[str, Any]) -> None:
    once = apply_merge(live, {}, applied)
    assert apply_merge(once, applied, applied) == once
