"""Reads a command line of the documentation as the program would that it calls, without running it."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import re
import shlex
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise

import yaml
from typer.testing import CliRunner

from celery_operator.api.values import Values
from celery_operator.cli.app import app
from celery_patterns import protocol
from celery_patterns.cli.command import build_parser
from harness.__main__ import _parser as harness_parser
from pages import CHECKOUT

PLACEHOLDERS = {"mine.yaml", "FILE", "FILE..."}
"""Files of the reader."""
BUILTIN_RESOURCES = {"crd", "nodes", "pods", "secrets", "deployments", "events"}
HELM_VERBS = {"install": 2, "upgrade": 2, "uninstall": 1, "test": 1}
"""How many names come first: of the release, and where the chart is."""
BENCHMARKS = {"bench-patterns": "patterns", "bench-workflows": "workflows"}
"""Folders of benchmarks/, which the tests have not on their path."""


class WrongCommandError(Exception):
    """The command would not do what the page says; the message says why."""


def need(fact: object, message: str) -> None:
    """Raise WrongCommandError unless something is so."""
    if not fact:
        raise WrongCommandError(message)


def commands_of(text: str) -> list[list[str]]:
    """Return the commands of a block as lists of words; output below ``$ `` lines is left out."""
    lines = text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def read(words: Sequence[str]) -> None:
    """Raise WrongCommandError if a command names what does not exist."""
    if words[0] == "export":
        need(all(re.fullmatch(r"[A-Z_]+=.+", word) for word in words[1:]), f"export what? {words[1:]}")
        return
    if inner := re.fullmatch(r"\$\((.+)\)", words[1]) if words[0] == "eval" else None:
        words = shlex.split(inner[1])
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program = words[0].removeprefix(".venv/bin/")
    need(program in READERS, f"nobody knows how to read {program}")
    READERS[program](words[1:])


def _make(words: Sequence[str]) -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    for word in words:
        name, is_variable, value = word.partition("=")
        if not is_variable:
            need(name in targets, f"make has no {name}")
        elif name == "ARGS":
            _parse(_of_benchmark(BENCHMARKS[words[0]]), shlex.split(value))
        else:
            need(re.search(rf"\$\({name}\)|^{name} \?=", makefile, re.MULTILINE), f"the Makefile has no {name}")


def _of_benchmark(name: str) -> argparse.ArgumentParser:
    """Return the options of a benchmark, read from its source."""
    source = (CHECKOUT / "benchmarks" / name / "measure.py").read_text(encoding="utf-8")
    parts = re.search(r"^PARTS = (\(.*\))$", source, re.MULTILINE)
    assert parts, "a benchmark names its parts"
    command = (CHECKOUT / "benchmarks" / "command.py").read_text(encoding="utf-8")
    assert '"--quick", action="store_true"' in command
    assert '"--only", action="append", choices=parts' in command
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=ast.literal_eval(parts[1]))
    return parser


def _helm(words: Sequence[str]) -> None:
    plain = [] if words[0].startswith("--") else list(words)
    if plain:
        need(words[0] in HELM_VERBS, f"helm {words[0]}?")
        names = words[1 : 1 + HELM_VERBS[words[0]]]
        given = [name for name in names if not name.startswith("-")]
        need(len(given) == HELM_VERBS[words[0]], f"helm {words[0]} needs {HELM_VERBS[words[0]]} names")
        if len(names) > 1:
            need((CHECKOUT / names[1] / "Chart.yaml").exists(), f"{names[1]} is no chart")
    for option, value in pairwise(words):
        if option == "--set":
            _value(value)
        elif option.startswith("--"):
            need(option in ("--namespace", "--create-namespace"), f"helm {option}?")


def _value(text: str) -> None:
    model = Values
    for part in text.partition("=")[0].split("."):
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        need(part in fields, f"the chart has no value {text.partition('=')[0]}")
        model = fields[part].annotation  # type: ignore[assignment]


def _kubectl(words: Sequence[str]) -> None:
    verb, rest = words[0], words[1:]
    if verb == "exec":
        need(re.fullmatch(r"deploy/[a-z-]+-worker", rest[0]), f"{rest[0]} is no pool's Deployment")
        need(rest[rest.index("-c") + 1] == "worker", "the workers' container is called worker")
        read(rest[rest.index("--") + 1 :])
    elif verb == "apply":
        _file(rest[rest.index("-f") + 1])
    else:
        need(verb in ("get", "delete"), f"kubectl {verb}?")
        names, served = rest[0].split(","), _resources()
        need(set(names) <= served.keys() | BUILTIN_RESOURCES, f"the API has not all of {names}")
        if names == ["crd"]:
            need(set(rest[1:]) == set(served.values()), "these are not all CRDs of the chart")


def _resources() -> dict[str, str]:
    """Return the names that kubectl takes for our resources, with the CRD of each."""
    found = {}
    for path in (CHECKOUT / "crds").glob("*.yaml"):
        crd = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = crd["spec"]["names"]
        for name in (names["plural"], names["singular"], *names.get("shortNames", ())):
            found[name] = crd["metadata"]["name"]
    return found


def _operator(words: Sequence[str]) -> None:
    """With --help a command reads all its arguments and then does nothing."""
    said = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    need(said.exit_code == 0, said.output)
    for word in words:
        if word.endswith((".yaml", ".json")):
            _file(word)


def _file(name: str) -> None:
    need(name in PLACEHOLDERS or (CHECKOUT / name).exists(), f"there is no {name}")


def _celery(words: Sequence[str]) -> None:
    need(words[0] in ("-A", "--app") and words[2] == "worker", "celery -A APPLICATION worker")
    for option, value in pairwise(words):
        if option == "-I":
            need(find_spec(value), f"there is no module {value}")


def _python(words: Sequence[str]) -> None:
    if words[0] != "-m":
        need(words[0] in (f"/opt/celery-operator/{protocol.RUN_CELERY}", f"/opt/celery-operator/{protocol.RUN_AGENT}"),
             f"{words[0]} is not what inject writes")  # fmt: skip
        (_celery if words[0].endswith(protocol.RUN_CELERY) else _agent)(words[1:])
    elif words[1] == "harness":
        _parse(harness_parser(), words[2:])
    else:
        need(words[1] == "celery_patterns.agent", f"python -m {words[1]}?")
        _agent(words[2:])


def _agent(words: Sequence[str]) -> None:
    needed = {"drain": ["--timeout-seconds"], "inject": [], "state": []}
    need(words[0] in needed, f"the agent has no command {words[0]}")
    need([word for word in words[1:] if word.startswith("-")] == needed[words[0]], f"{words}?")


def _docker(words: Sequence[str]) -> None:
    need(words[0] == "build" and words[-1] == ".", "docker build … .")
    _file(words[words.index("-f") + 1])


def _parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser.parse_args(list(words))
    except SystemExit:
        raise WrongCommandError(said.getvalue().strip().splitlines()[-1]) from None


READERS: dict[str, Callable[[Sequence[str]], None]] = {
    "celery": _celery,
    "celery-operator": _operator,
    "celery-patterns": lambda words: _parse(build_parser(), words),
    "docker": _docker,
    "helm": _helm,
    "kubectl": _kubectl,
    "make": _make,
    "python": _python,
}
