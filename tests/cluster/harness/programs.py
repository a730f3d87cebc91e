"""The programs that are built from Go modules, with their pinned versions and flags. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

KUBERNETES = "1.37.2"
CONTAINERD = "2.4.2"
COREDNS = "1.14.7"
HELM = "3.22.0"
KIND = "0.33.0"

_MAJOR, _MINOR, _ = KUBERNETES.split(".")


@dataclass(frozen=True, slots=True)
class Program:
    """One Go module to build.

    Attributes:
        name: The folder of the module below `go/`, and the first half of the name in the cache.
        packages: What to build: import paths, or `.` for the module's own main package.
        outputs: The files that have to exist afterwards.
        aliases: Further names for the first output, which acts on the name it is called by.
        tags: Go build tags.
        variables: Package variables that are set at link time.
        minutes: Roughly how long the first build takes on two cores; later ones take seconds.
    """

    name: str
    packages: tuple[str, ...]
    outputs: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    minutes: float = 1

    def flags(self) -> tuple[str, ...]:
        """Return the flags of `go build` that decide what comes out."""
        linker = ["-s", "-w", *(f"-X {name}={value}" for name, value in self.variables)]
        tags = (f"-tags={','.join(self.tags)}",) if self.tags else ()
        return ("-trimpath", "-mod=readonly", *tags, f"-ldflags={' '.join(linker)}")


def _kubernetes_version(package: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"{package}.gitVersion", f"v{KUBERNETES}"),
        (f"{package}.gitMajor", _MAJOR),
        (f"{package}.gitMinor", _MINOR),
    )


KUBE = Program(
    name="kube",
    packages=(".",),
    outputs=("kube",),
    aliases=(
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "kubelet",
        "kubectl",
    ),
    # Without these every client sees Kubernetes v0.0.0.
    variables=(
        *_kubernetes_version("k8s.io/component-base/version"),
        *_kubernetes_version("k8s.io/client-go/pkg/version"),
    ),
    minutes=10,
)
CONTAINERD_PROGRAMS = Program(
    name="containerd",
    packages=tuple(
        f"github.com/containerd/containerd/v2/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    ),
    outputs=("containerd", "containerd-shim-runc-v2", "ctr"),
    # Snapshotters that need C libraries or file systems of their own; the node uses overlayfs.
    tags=("no_btrfs", "no_zfs", "no_devmapper"),
    variables=(("github.com/containerd/containerd/v2/version.Version", f"v{CONTAINERD}"),),
    minutes=1.5,
)
COREDNS_PROGRAM = Program(name="coredns", packages=(".",), outputs=("coredns",), minutes=1)
HELM_PROGRAM = Program(
    name="helm",
    packages=("helm.sh/helm/v3/cmd/helm",),
    outputs=("helm",),
    # helm takes the Kubernetes version it believes in from here; left alone, it refuses charts as "too new for 1.20".
    variables=(
        ("helm.sh/helm/v3/internal/version.version", f"v{HELM}"),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", _MAJOR),
        ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", _MINOR),
        ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor", _MAJOR),
        ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor", _MINOR),
    ),
    minutes=1.5,
)
KIND_PROGRAM = Program(name="kind", packages=("sigs.k8s.io/kind",), outputs=("kind",), minutes=0.5)

NODE_PROGRAMS = (COREDNS_PROGRAM, CONTAINERD_PROGRAMS, HELM_PROGRAM, KUBE)


def version_key(sources: Mapping[str, bytes], flags: tuple[str, ...], target: str) -> str:
    """Return the short name of one exact build.

    Args:
        sources: File name to content, for instance `go.mod`, `go.sum` and `main.go`: the pinned versions are in them.
        flags: The flags that decide what comes out.
        target: The machine it is built for, for instance `linux/amd64`.
    """
    digest = hashlib.sha256()
    for part in (target, *flags):
        digest.update(f"{len(part)}:{part}".encode())
    for name, content in sorted(sources.items()):
        digest.update(f"{len(name)}:{name}{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def parse_go_version(text: str) -> tuple[int, int, int]:
    """Return (major, minor, patch) of a Go version such as `go1.26.8`, `1.26.0` or `go1.27rc1`.

    Raises:
        ValueError: The text does not begin with a Go version.
    """
    digits = text.strip().removeprefix("go").split(" ")[0]
    for mark in ("rc", "beta", "-"):
        digits = digits.split(mark)[0]
    major, minor, *rest = (int(part) for part in digits.split("."))
    return major, minor, rest[0] if rest else 0


def required_go(module_text: str) -> tuple[int, int, int]:
    """Return the Go version that a go.mod file asks for.

    Raises:
        ValueError: The text has no `go` line.
    """
    for line in module_text.splitlines():
        if line.startswith("go "):
            return parse_go_version(line.removeprefix("go "))
    raise ValueError("a go.mod file has to have a line 'go <version>'")
