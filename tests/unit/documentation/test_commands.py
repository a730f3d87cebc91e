"""Every command of the documentation names what there is: targets, options, values, resources, modules, files."""

from __future__ import annotations

import pytest

from pages import Block, other_blocks
from shown_commands import WrongCommandError, commands_of, read

OWN_FOLDER = {"examples/patterns/README.md"}
"""Pages whose commands are run as they stand, in their own folder, by tests/patterns."""
OPTIONS_ALONE = {"docs/installation.md": "helm"}
"""Pages that show options without their command, and whose they are."""


@pytest.mark.parametrize("block", other_blocks("bash", "console"), ids=str)
def test_command_would_be_understood(block: Block) -> None:
    if block.page in OWN_FOLDER:
        return
    commands = commands_of(block.text)
    assert commands, f"{block} has no command"
    for words in commands:
        alone = words[0].startswith("--")
        read([OPTIONS_ALONE[block.page], *words] if alone else words)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("make demos", "make has no demos"),
        ("make bench-patterns ARGS=--quickly", "unrecognized arguments"),
        ("helm install celery helm/celery", "is no chart"),
        ("helm install celery", "needs 2 names"),
        ("helm upgrade celery helm/celery-operator --set redis.enable=true", "no value redis.enable"),
        ("kubectl get celeryworkflow,celpools", "has not all of"),
        ("kubectl apply -f examples/40.yaml", "there is no examples/40.yaml"),
        ("kubectl exec deploy/shop-worker -c worker -- celery-patterns dlq lst", "invalid choice"),
        ("celery-operator runs examples/01-add.yaml", "No such command"),
        ("celery-operator run --pain examples/01-add.yaml", "--pain"),
        ("celery -A shop worker -I celery_patterns.autoload", "no module"),
        ("python -m celery_patterns.agent drained", "no command drained"),
        ("python -m harness envs", "invalid choice"),
        ("docker build -f Dockerfile -t t .", "there is no Dockerfile"),
        ("rm -r x", "nobody knows"),
    ],
)
def test_what_is_wrong_is_seen(line: str, complaint: str) -> None:
    """These checks can fail."""
    with pytest.raises(WrongCommandError, match=complaint):
        read(commands_of(line)[0])


def test_output_below_a_prompt_is_no_command() -> None:
    assert commands_of("$ make \\\n  demo # now\nmade\n$ ls\n") == [["make", "demo"], ["ls"]]
