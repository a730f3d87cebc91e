from pathlib import Path

import pytest

from harness.layout import HARNESS
from harness.programs import (
    CONTAINERD,
    COREDNS,
    HELM,
    HELM_PROGRAM,
    KIND,
    KIND_PROGRAM,
    KUBE,
    KUBERNETES,
    NODE_PROGRAMS,
    Program,
    parse_go_version,
    required_go,
    version_key,
)

SOURCES = {"go.mod": b"module a\n", "main.go": b"package main\n"}


def test_the_same_build_has_the_same_key_whatever_the_order_of_its_files() -> None:
    backwards = dict(reversed(SOURCES.items()))
    assert version_key(backwards, ("-trimpath",), "linux/amd64") == version_key(SOURCES, ("-trimpath",), "linux/amd64")


@pytest.mark.parametrize(
    ("sources", "flags", "target"),
    [
        ({**SOURCES, "go.mod": b"module b\n"}, ("-trimpath",), "linux/amd64"),
        ({**SOURCES, "go.sum": b""}, ("-trimpath",), "linux/amd64"),
        ({"go.mod": b"module a\nmain.go", "x": b"package main\n"}, ("-trimpath",), "linux/amd64"),
        (SOURCES, (), "linux/amd64"),
        (SOURCES, ("-trim", "path"), "linux/amd64"),
        (SOURCES, ("-trimpath",), "linux/arm64"),
    ],
)
def test_whatever_decides_what_comes_out_of_a_build_changes_its_key(
    sources: dict[str, bytes], flags: tuple[str, ...], target: str
) -> None:
    assert version_key(sources, flags, target) != version_key(SOURCES, ("-trimpath",), "linux/amd64")


def test_flags_hold_tags_and_link_time_variables() -> None:
    program = Program(
        name="p", packages=(".",), outputs=("p",), tags=("a", "b"), variables=(("x.y", "1"), ("x.z", "2"))
    )
    assert program.flags() == ("-trimpath", "-mod=readonly", "-tags=a,b", "-ldflags=-s -w -X x.y=1 -X x.z=2")


def test_helm_believes_in_the_kubernetes_version_of_the_node() -> None:
    major, minor, _ = KUBERNETES.split(".")
    variables = dict(HELM_PROGRAM.variables)
    assert variables["helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor"] == major
    assert variables["helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor"] == minor


@pytest.mark.parametrize(
    ("program", "required"),
    [
        ("kube", f"k8s.io/kubernetes v{KUBERNETES}"),
        ("containerd", f"github.com/containerd/containerd/v2 v{CONTAINERD}"),
        ("coredns", f"github.com/coredns/coredns v{COREDNS}"),
        ("helm", f"helm.sh/helm/v3 v{HELM}"),
        ("kind", f"sigs.k8s.io/kind v{KIND}"),
    ],
)
def test_the_versions_that_are_spoken_of_are_those_in_the_modules(program: str, required: str) -> None:
    text = (HARNESS / "go" / program / "go.mod").read_text(encoding="utf-8")
    assert any(
        line.strip().removeprefix("require ").removesuffix(" // indirect") == required for line in text.splitlines()
    )


@pytest.mark.parametrize("program", [*NODE_PROGRAMS, KIND_PROGRAM], ids=lambda program: program.name)
def test_every_module_comes_with_the_checksums_of_what_it_needs(program: Program) -> None:
    assert (HARNESS / "go" / program.name / "go.sum").stat().st_size > 0


def test_every_name_of_the_combined_binary_is_a_case_of_its_main_function() -> None:
    text = (HARNESS / "go" / "kube" / "main.go").read_text(encoding="utf-8")
    assert [alias for alias in KUBE.aliases if f'case "{alias}":' not in text] == []


def test_coredns_is_built_with_exactly_the_plugins_its_corefile_names() -> None:
    imported = {
        line.strip().rpartition("/plugin/")[2].rstrip('"')
        for line in (HARNESS / "go" / "coredns" / "main.go").read_text(encoding="utf-8").splitlines()
        if "/plugin/" in line and line.strip().startswith("_")
    }
    assert _corefile_plugins(HARNESS / "manifests" / "coredns.yaml") == imported


def _corefile_plugins(manifest: Path) -> set[str]:
    """The first word of every line at the first level inside a server block."""
    corefile = manifest.read_text(encoding="utf-8").partition("Corefile: |\n")[2].partition("\n---")[0]
    return {line.split()[0] for line in corefile.splitlines() if line.startswith(" " * 6) and line[6] not in " }"}


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.8", (1, 26, 8)), ("1.26.0", (1, 26, 0)), ("go1.27rc1", (1, 27, 0)), ("go1.21", (1, 21, 0))],
)
def test_go_versions_are_read_in_every_form_go_prints_them(text: str, version: tuple[int, int, int]) -> None:
    assert parse_go_version(text) == version


def test_a_module_says_which_go_it_needs() -> None:
    assert required_go("module a\n\ngo 1.26.0\n") == (1, 26, 0)
    with pytest.raises(ValueError, match="line 'go <version>'"):
        required_go("module a\n")
