"""Building the programs: each once per version, into the cache."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from harness import oci
from harness.commands import run, run_logged
from harness.errors import HarnessError
from harness.layout import HARNESS, Layout
from harness.programs import (
    COREDNS,
    COREDNS_PROGRAM,
    NODE_PROGRAMS,
    Program,
    version_key,
)
from harness.progress import Progress, Step
from harness.toolchain import go_for

_BUILD_WITHIN = timedelta(minutes=45)
"""The largest build takes 10 minutes on two cores; a loaded machine may need several times that."""

_C_FLAGS = ("-O2", "-static", "-s", "-Wall", "-Werror")


def build(layout: Layout, progress: Progress, program: Program) -> Path:
    """Return the folder with a program's files, after building them if the cache lacks them.

    Raises:
        HarnessError: There is no Go and none could be fetched, or the build failed.
    """
    module = HARNESS / "go" / program.name
    folder = _folder(layout, program, module)
    if _complete(folder, program):
        return folder
    go = go_for(layout, progress, module)
    log = layout.build_logs / f"build-{program.name}.log"
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with progress.step(f"Building {program.name}") as step:
            run_logged(
                (go, "build", "-v", *program.flags(), f"-o={scratch}/", *program.packages),
                log=log,
                within=_BUILD_WITHIN,
                on_line=_GoOutput(step, program),
                folder=module,
                environment={"CGO_ENABLED": "0", "GOWORK": "off"},
            )
        for output in program.outputs:
            if not (scratch / output).exists():
                raise HarnessError(f"Building {program.name} left no file {output!r}. See {log}")
        for alias in program.aliases:
            (scratch / alias).symlink_to(program.outputs[0])
        scratch.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def missing_programs(layout: Layout, programs: Iterable[Program] = NODE_PROGRAMS) -> tuple[Program, ...]:
    """Return the programs that the cache lacks."""
    return tuple(
        program
        for program in programs
        if not _complete(_folder(layout, program, HARNESS / "go" / program.name), program)
    )


def _complete(folder: Path, program: Program) -> bool:
    return all((folder / name).exists() for name in (*program.outputs, *program.aliases))


def _folder(layout: Layout, program: Program, module: Path) -> Path:
    files = [path for path in module.iterdir() if path.name in {"go.mod", "go.sum"} or path.suffix == ".go"]
    sources = {path.name: path.read_bytes() for path in files}
    key = version_key(sources, (*program.flags(), *program.aliases), _target())
    return layout.cache / "programs" / f"{program.name}-{key}"


def _target() -> str:
    return f"linux/{oci.architecture(platform.machine())}"


class _GoOutput:
    """Turns `go build -v` into a count: it prints a line per module it fetches and per package it compiles."""

    def __init__(self, step: Step, program: Program) -> None:
        self._step = step
        self._program = program
        self._modules = 0
        self._packages = 0
        self._last = ""

    def __call__(self, line: str | None) -> None:
        if line is not None and line.startswith("go: downloading "):
            self._modules += 1
        elif line is not None:
            self._packages += 1
            self._last = line
        counts = [f"{self._packages} packages compiled"]
        if self._modules:
            counts.insert(0, f"{self._modules} modules fetched")
        if self._last:
            counts.append(self._last[-60:])
        self._step.update(f"{', '.join(counts)}; about {self._program.minutes:g} min the first time on two cores")


def build_pause(layout: Layout, progress: Progress) -> tuple[Path, str]:
    """Return the archive and the name of the image of a pod's sandbox."""
    source = HARNESS / "native" / "pause.c"
    key = version_key({source.name: source.read_bytes()}, _C_FLAGS, _target())
    archive, name = layout.cache / "images" / f"pause-{key}.tar", f"localhost/celery-operator-pause:{key}"
    if not archive.exists():
        with progress.step("Building the pause image"), tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "pause"
            run(("gcc", *_C_FLAGS, "-o", str(program), str(source)))
            _write_image(archive, name, program, user="65535:65535")
    return archive, name


def build_coredns(layout: Layout, progress: Progress) -> tuple[Path, str]:
    """Return the archive and the name of the image of the cluster's DNS server."""
    folder = build(layout, progress, COREDNS_PROGRAM)
    key = folder.name.removeprefix("coredns-")
    archive, name = layout.cache / "images" / f"coredns-{key}.tar", f"localhost/celery-operator-coredns:{COREDNS}-{key}"
    if not archive.exists():
        # Root with no capability but binding port 53, which the manifest gives it.
        _write_image(archive, name, folder / "coredns", user="0:0")
    return archive, name


def _write_image(archive: Path, name: str, program: Path, *, user: str) -> None:
    oci.write_image(
        archive,
        name=name,
        program=program.read_bytes(),
        path=f"/{program.name}",
        machine=oci.architecture(platform.machine()),
        user=user,
        labels={"org.opencontainers.image.title": program.name},
    )
