"""Every workflow that the documentation shows is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from celery_operator.domain.workflows.compile import compile_workflow
from unit.domain.workflows.simulation import spec_of

ROOT = Path(__file__).parents[4]
BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/workflows.md").read_text(), re.DOTALL)
MANIFESTS = [
    document
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document and document["kind"] == "CeleryWorkflow"
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_documentation_compiles(block: str) -> None:
    assert compile_workflow(spec_of(**yaml.safe_load(block))).nodes


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["metadata"]["name"])
def test_an_example_compiles(manifest: dict[str, dict[str, object]]) -> None:
    assert compile_workflow(spec_of(**manifest["spec"])).nodes


def test_there_are_blocks_and_examples() -> None:
    assert len(BLOCKS) == 6
    assert len(MANIFESTS) >= 4
