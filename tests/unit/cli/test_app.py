"""The command line says what is wrong, where, and what was expected, and its exit status can be relied on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from celery_operator.cli.app import app
from celery_operator.cli.examples import examples
from celery_operator.cli.exit_codes import ExitCode

APP = """\
apiVersion: celery-operator.dev/v1alpha1
kind: CeleryApp
metadata: {name: a}
spec:
  connection:
    broker: {url: "redis://redis/0"}
    resultBackend: {url: "redis://redis/1"}
---
"""
HEAD = "apiVersion: celery-operator.dev/v1alpha1\nkind: KIND\nmetadata: {name: x}\nspec:\n  appRef: {name: a}\n"
WORKFLOW = HEAD.replace("KIND", "CeleryWorkflow")
POOL = HEAD.replace("KIND", "CeleryWorkerPool")
SECRET = 'apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {broker: "redis://:pw@redis/0"}\n---\n'
FROM_SECRET = "{urlFrom: {secretKeyRef: {name: s, key: brokr}}}"
TASK = "task: {name: t}"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})


def said_about(tmp_path: Path, text: str, command: str = "validate") -> tuple[int, str]:
    """Return the exit status and what was said on standard error, without the folder's name."""
    file = tmp_path / "f.yaml"
    file.write_text(text)
    result = call(command, str(file))
    return result.exit_code, result.stderr.replace(f"{tmp_path}/", "")


BAD = {
    "an unknown field": (WORKFLOW + f"  chian: [{TASK}]\n", "spec.chian: unknown field; did you mean chain?"),
    "an unknown kind of step": (
        WORKFLOW + "  chain: [{tsk: {name: t}}]\n",
        "spec.chain[0].tsk: unknown field; did you mean task?",
    ),
    "two kinds of work": (
        WORKFLOW + f"  chain: [{{{TASK}}}]\n  group: [{{{TASK}}}]\n",
        "spec: set exactly one of chain, group, chord, mapReduce and dag",
    ),
    "a cycle": (
        WORKFLOW + f"  dag: {{steps: [{{name: a, dependsOn: [{{step: b}}], {TASK}}}, "
        f"{{name: b, dependsOn: [{{step: a}}], {TASK}}}]}}\n",
        "the steps wait for each other in a circle: a -> b -> a",
    ),
    "a dependency that does not exist": (
        WORKFLOW + f"  dag: {{steps: [{{name: a, dependsOn: [{{step: nope}}], {TASK}}}]}}\n",
        "spec.dag: dependsOn names a step that does not exist",
    ),
    "more at least than at most": (
        POOL + "  autoscaling: {minReplicas: 5, maxReplicas: 2}\n",
        "spec.autoscaling: minReplicas must not be greater than maxReplicas",
    ),
    "a Secret without the key": (
        SECRET + APP.replace('{url: "redis://redis/0"}', FROM_SECRET) + POOL,
        "broker.urlFrom.secretKeyRef.key: Secret s has no key brokr; it has broker. Did you mean broker?",
    ),
    "a Secret whose data is not encoded": (
        SECRET.replace("stringData", "data") + APP,
        "Secret s data.broker: not base64: write plain text under stringData",
    ),
    "a Secret whose data is a list": (
        SECRET.replace('stringData: {broker: "redis://:pw@redis/0"}', "data: [x]") + APP,
        "Secret s data: expected names with values, not a list",
    ),
    "a URL that cannot be read": (
        APP.replace("redis://redis/0", "redis//redis") + POOL,
        "spec.connection.broker.url: the broker URL cannot be read: expected SCHEME://HOST:PORT/",
    ),
    "a broker that is not served": (
        APP.replace("redis://redis/0", "kafka://redis") + POOL,
        "spec.connection.broker.url: no broker of kind kafka:// is served",
    ),
    "a name that is too long": (
        WORKFLOW.replace("name: x", "name: " + "x" * 60) + f"  chain: [{{{TASK}}}]\n",
        "metadata.name: metadata.name must have at most 47 characters",
    ),
    "arguments that the operator owns": (
        POOL + "  worker: {extraArgs: [-Q, x]}\n",
        "spec.worker.extraArgs[0]: -Q is not allowed here: use spec.queues",
    ),
    "a template that sets what the operator owns": (
        POOL + "  template: {spec: {containers: [{name: worker, command: [sh]}]}}\n",
        "spec.template.spec.containers[0].command: belongs to the operator",
    ),
    "a boolean for a name": (
        WORKFLOW.replace("name: x", "name: on") + f"  chain: [{{{TASK}}}]\n",
        "metadata.name is missing or no text: expected a name (YAML reads an unquoted y, n, on",
    ),
    "half of a character": (
        WORKFLOW + '  chain: [{task: {name: "a\\ud800"}}]\n',
        "is no text: half of a pair of surrogates stands alone in it",
    ),
    "a workflow without a result backend": (
        APP.replace('    resultBackend: {url: "redis://redis/1"}\n', "") + WORKFLOW + f"  chain: [{{{TASK}}}]\n",
        "spec.appRef: its application has no resultBackend",
    ),
}


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_before_anything_starts(tmp_path: Path, case: str, command: str) -> None:
    text, expected = BAD[case]
    text = text if "kind: CeleryApp" in text else APP + text
    status, said = said_about(tmp_path, text, command)
    assert status == ExitCode.INVALID
    (line,) = said.splitlines()
    assert line.startswith("error: f.yaml:")
    assert expected in line


def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path) -> None:
    status, said = said_about(tmp_path, APP.replace("redis://redis/0", "redis://user:hunter2@redis/0"))
    assert status == ExitCode.INVALID
    assert "url must not contain a user or password" in said
    assert "hunter2" not in said


def test_what_may_exist_in_a_cluster_is_a_note_for_validate_and_an_error_for_run(tmp_path: Path) -> None:
    text = WORKFLOW + f"  chain: [{{{TASK}}}]\n"
    about = "f.yaml:5: CeleryWorkflow x spec.appRef.name: there is no CeleryApp a in these files."
    status, said = said_about(tmp_path, text)
    assert (status, said.splitlines()[0]) == (ExitCode.SUCCESS, f"note: {about}")
    assert said_about(tmp_path, text, "run") == (ExitCode.INVALID, f"error: {about}\n")


def test_a_queue_that_no_pool_consumes_is_noted(tmp_path: Path) -> None:
    text = APP + POOL + "  queues: [{name: images}]\n---\n" + WORKFLOW + f"  chain: [{{{TASK}}}]\n"
    assert said_about(tmp_path, text) == (
        ExitCode.SUCCESS,
        "note: f.yaml:16: CeleryWorkflow x: tasks go to the queue celery, which no CeleryWorkerPool in these files "
        "consumes (they consume images)\n",
    )


def test_valid_files_are_counted() -> None:
    files = [str(file) for file in examples().values()]
    result = call("validate", *files)
    assert (result.exit_code, result.stderr) == (ExitCode.SUCCESS, "")
    assert result.stdout == f"18 resources in {len(files)} files: valid\n"


def test_findings_can_be_had_as_json(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(WORKFLOW + "  chian: []\n")
    result = call("validate", "--json", str(file))
    assert result.exit_code == ExitCode.INVALID
    assert json.loads(result.stdout) == {
        "valid": False,
        "problems": [
            {
                "file": str(file),
                "document": 1,
                "line": 6,
                "resource": "CeleryWorkflow x",
                "path": "spec.chian",
                "message": "unknown field; did you mean chain?",
            }
        ],
        "notes": [],
    }


def test_a_wrong_mapping_of_a_host_is_refused_with_an_example() -> None:
    result = call("run", str(examples()["add"]), "--map-host", "redis")
    assert result.exit_code == ExitCode.INVALID
    assert "expected NAME=HOST:PORT, for instance redis=127.0.0.1:6379, got 'redis'" in result.stderr


@pytest.mark.parametrize("name", ["word-count", "04-word-count.yaml", "04", "4"])
def test_an_example_is_printed_by_any_of_its_names(name: str) -> None:
    result = call("example", name)
    assert (result.exit_code, result.stdout) == (0, examples()["word-count"].read_text())


def test_an_unknown_example_is_answered_with_those_that_there_are() -> None:
    result = call("example", "word-cuont")
    assert result.exit_code == ExitCode.INVALID
    assert result.stderr == (
        "error: there is no example 'word-cuont'; there are add, chain-group-chord, dag, word-count, failure. "
        "Did you mean word-count?\n"
    )


def test_examples_are_listed_with_what_they_show() -> None:
    lines = call("example").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["add", "chain-group-chord", "dag", "word-count", "failure"]
    assert lines[0] == "add                  The seed of every Celery tutorial: 4 + 4, computed by a worker."


def test_the_version_names_what_it_is_built_on() -> None:
    said = call("version").stdout
    assert said.startswith("celery-operator 0.")
    assert "celery 5.7" in said


@pytest.mark.parametrize("command", ["run", "validate", "example", "version"])
def test_every_command_has_help(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_without_arguments_there_is_help() -> None:
    assert "validate" in call().stdout
