"""Files are read as kubectl reads them, and what is wrong is named with file, line and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_operator.local.manifests import Problem, load

APP = """\
apiVersion: celery-operator.dev/v1alpha1
kind: CeleryApp
metadata: {name: a}
spec:
  connection:
    broker: {url: "redis://redis/0"}
"""


def read(tmp_path: Path, text: str) -> tuple[list[str], list[Problem]]:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    documents, problems = load([str(file)])
    return [document.resource for document in documents], problems


def complaint(tmp_path: Path, text: str) -> str:
    """Return the only problem, without the folder of the file."""
    _, problems = read(tmp_path, text)
    (problem,) = problems
    return str(problem).replace(str(tmp_path) + "/", "")


def test_documents_are_read_in_order(tmp_path: Path) -> None:
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"
    assert read(tmp_path, APP + secret) == (["CeleryApp a", "Secret s"], [])


def test_a_folder_gives_its_files_sorted(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(APP.replace("name: a", "name: b"))
    (tmp_path / "a.yml").write_text(APP)
    (tmp_path / "notes.txt").write_text("no resource")
    documents, problems = load([str(tmp_path)])
    assert ([document.resource for document in documents], problems) == (["CeleryApp a", "CeleryApp b"], [])


def test_a_list_is_taken_apart(tmp_path: Path) -> None:
    items = "\n".join("  " + line for line in APP.splitlines()).replace("  apiVersion", "- apiVersion", 1)
    assert read(tmp_path, f"apiVersion: v1\nkind: List\nitems:\n{items}\n") == (["CeleryApp a"], [])


def test_companions_that_mean_nothing_here_are_passed_over(tmp_path: Path) -> None:
    namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n"
    assert read(tmp_path, APP + namespace) == (["CeleryApp a"], [])


def test_dates_and_keys_are_texts(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {day: 2026-11-21, 1: x, true: y}\n"
    file.write_text(text)
    documents, _ = load([str(file)])
    assert documents[0].manifest["data"] == {"day": "2026-11-21", "1": "x", "true": "y"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "f.yaml:1: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: not valid YAML: the key 'a' stands here twice"),
        ("", "f.yaml: holds no resource"),
        ("- 1\n", "f.yaml:1: expected a resource (an object with apiVersion, kind and metadata), got a list"),
        ("a: 1\n", "f.yaml:1: kind is missing: expected one of CeleryApp, CeleryWorkerPool, CeleryWorkflow, Secret"),
        (
            APP.replace("kind: CeleryApp", "kind: CeleryWorkflw"),
            "f.yaml:2: CeleryWorkflw a kind: CeleryWorkflw is not a kind that can be run here: expected CeleryApp, "
            "CeleryWorkerPool, CeleryWorkflow, Secret, ConfigMap. Did you mean CeleryWorkflow?",
        ),
        (
            APP.replace("v1alpha1", "v1"),
            "f.yaml:1: CeleryApp a apiVersion: expected celery-operator.dev/v1alpha1, got 'celery-operator.dev/v1'",
        ),
        (
            APP.replace("{name: a}", "{}"),
            "f.yaml:3: CeleryApp metadata: metadata.name is missing or no text: expected a name",
        ),
    ],
)
def test_what_is_no_resource_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert complaint(tmp_path, text).startswith(said)


def test_the_same_resource_twice_is_refused(tmp_path: Path) -> None:
    said = complaint(tmp_path, APP + "---\n" + APP)
    wanted = f"f.yaml:10: CeleryApp a metadata.name: the same resource stands in {tmp_path}/f.yaml, document 1 already"
    assert said == wanted.replace(f"{tmp_path}/", "")


def test_a_file_that_is_not_there_is_named() -> None:
    documents, problems = load(["no-such.yaml"])
    assert (documents, [str(problem) for problem in problems]) == (
        [],
        ["no-such.yaml: cannot be read: No such file or directory"],
    )


def test_a_problem_knows_the_line_of_its_field(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(APP)
    ((document,), _) = load([str(file)])
    paths = ("spec.connection.broker.url", "spec.none", "metadata[2]")
    assert [document.problem("x", path).line for path in paths] == [6, 4, 3]
