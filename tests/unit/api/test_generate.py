from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from celery_operator import generate
from celery_operator.api.values import Values
from celery_operator.documents import values_schema, values_yaml


def test_every_generated_file_is_current() -> None:
    assert generate.main(["--check"]) == 0


def test_check_names_stale_and_missing_files_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert generate.main([]) == 0
    capsys.readouterr()
    (tmp_path / "crds" / "celeryapps.yaml").write_text("old", encoding="utf-8")
    (tmp_path / "docs" / "reference.md").unlink()
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "crds/celeryapps.yaml is stale: run `make generate` and commit the result",
        "docs/reference.md is stale: run `make generate` and commit the result",
    ]
    assert (tmp_path / "crds" / "celeryapps.yaml").read_text(encoding="utf-8") == "old"
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


def test_generating_is_repeatable() -> None:
    assert dict(generate.files()) == dict(generate.files())


def test_the_values_file_holds_the_models_defaults() -> None:
    assert Values.model_validate(yaml.safe_load(values_yaml())) == Values()


def test_the_values_schema_refuses_unknown_keys_everywhere() -> None:
    schema = values_schema()
    objects = [schema, *schema["$defs"].values()]
    assert [node.get("title") for node in objects if node.get("additionalProperties") is not False] == []
