"""The examples, as they are, on the cluster."""

from __future__ import annotations

from typing import Any

import yaml

from harness.layout import CHECKOUT
from support.playground import Playground, condition

FOLDER = CHECKOUT / "examples"
ADDRESS = "redis://celery-redis:6379"
"""What the examples say; the test's own Redis stands in for it, under a name that the operator's pod can resolve."""
WITHIN = 240.0
RESULTS: dict[str, dict[str, Any]] = {
    "add": {"sum": 8},
    "chain": {"result": 40.0},
    "group": {"results": [2, 4, 42]},
    "chord": {"sumOfSquares": 285},
    "invoice": {"net": 160, "tax": 40.0, "gross": 200.0},
    "tolerant": {"total": 13},
}
"""What the workflows with a foreseeable result show. The word count is of what the image happens to have installed."""


def test_every_example_ends_as_it_says(ground: Playground) -> None:
    """All are applied at once: five pools grow from zero, and shrink again when their work is done."""
    files = sorted(FOLDER.glob("*.yaml"))
    assert len(files) >= 5
    texts = [
        file.read_text(encoding="utf-8").replace(ADDRESS, ground.redis_url(0).removesuffix("/0")) for file in files
    ]
    for text in texts:
        ground.cluster.kubectl("apply", "-n", ground.name, "-f", "-", stdin=text)
    documents = [document for text in texts for document in yaml.safe_load_all(text)]
    workflows = [each["metadata"]["name"] for each in documents if each["kind"] == "CeleryWorkflow"]
    ends = {name: condition(ground.wait_ended(name, within=WITHIN), "Succeeded") for name in workflows}
    failed = {name: (end["reason"], end["message"]) for name, end in ends.items() if end["status"] != "True"}
    assert list(failed) == ["strict"], failed
    assert {name: ground.outputs(name) for name in RESULTS} == RESULTS
    words = ground.outputs("word-count")["words"]
    assert len(words) == 10
    # What a package about messages and connections speaks of; which comes first may change with its version.
    assert {"message", "connection", "celery"} <= {word for word, _ in words}
    assert [count for _, count in words] == sorted((count for _, count in words), reverse=True)
