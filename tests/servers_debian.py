"""Programs of another Debian release than this machine's, with their own libraries, in a folder of the user's cache.

apt itself fetches and verifies them (from the archive that this machine uses, by the keys that it trusts), but with
sources, lists and cache of its own: nothing is installed, and no file of the system changes. Each program runs by its
own release's loader, since it may need a newer C library than this machine's.
"""

from __future__ import annotations

import fcntl
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from harness.commands import run, run_logged
from harness.errors import HarnessError
from harness.progress import Progress, Step

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
FETCH_WITHIN = timedelta(minutes=10)
"""For some ten to sixty megabytes, also over a slow line."""
ROLLING = ("oldstable", "stable", "testing", "unstable", "sid")
"""Names that stand for a release in sources; suites such as `bookworm-security` have an archive of their own."""
INDEX_FORMAT = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(SIGNED_BY)"
"""What apt-get is asked of each index that this machine uses."""

APT_CONFIGURATION = """\
// What this machine does after an update is for its own lists.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"""
"""The sandbox's user may not read below somebody's home."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A program of a release of Debian.

    Attributes:
        suite: The release.
        package: What to unpack, with all that it depends on.
        program: Its path below the folder where packages are unpacked.
        target: The folder to make: ``bin/NAME`` in it runs the program, ``root`` is what was unpacked.
        log: Receives what apt-get says.
    """

    suite: str
    package: str
    program: str
    target: Path
    log: Path


def choose_mirror(indexes: str, codename: str) -> str | None:
    """Return the URI of Debian's own archive among the indexes that apt knows; None if there is none.

    Args:
        indexes: Lines of INDEX_FORMAT.
        codename: The release of this machine.
    """
    found = []
    for line in indexes.splitlines():
        uri, release, component, origin, signed_by = (line.split("|", 4) + [""] * 5)[:5]
        if component == "main" and release in (codename, *ROLLING) and origin in ("", "Debian"):
            # Before the first update apt knows no origin; then the key tells Debian's archive from others'.
            found.append((origin != "Debian", "debian-archive" not in signed_by, uri))
    return min(found)[2] if found else None


def mirror() -> str | None:
    """Return the URI of the Debian archive that this machine uses; None if this is no Debian."""
    if not all(shutil.which(program) for program in ("apt-get", "dpkg", "dpkg-deb")) or not KEYS.exists():
        return None
    indexes = run(("apt-get", "indextargets", "--format", INDEX_FORMAT, "Created-By: Packages"))
    return choose_mirror(indexes, _codename())


def fetch(archive: str, wanted: Wanted, progress: Progress) -> None:
    """Make a program of a release of Debian available; nothing is done if it is there.

    Args:
        archive: URI of Debian's archive.
        wanted: The program.
        progress: Shows what goes on.

    Raises:
        HarnessError: The archive does not answer, or has no such package.
    """
    target = wanted.target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.parent / "lock"), tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        if (target / "bin" / Path(wanted.program).name).exists():
            return
        new = Path(folder) / "new"
        (new / "root").mkdir(parents=True)
        with progress.step(f"Fetching {wanted.package} of Debian {wanted.suite}") as step:
            for package in _download(archive, wanted, Path(folder), step):
                run(("dpkg-deb", "-x", str(package), str(new / "root")))
            _write_wrapper(new, wanted)
        if target.exists():
            shutil.rmtree(target)
        new.rename(target)


def _download(archive: str, wanted: Wanted, folder: Path, step: Step) -> Sequence[Path]:
    """Let apt fetch a package and what it needs, as for a machine that has nothing; return the files."""
    root = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (root / name).mkdir(parents=True)
    (root / "status").touch()
    machine = run(("dpkg", "--print-architecture")).strip()
    source = f"deb [target=Packages arch={machine} signed-by={KEYS}] {archive} {wanted.suite} main\n"
    (root / "sources.list").write_text(source)
    configuration = root / "apt.conf"
    configuration.write_text(APT_CONFIGURATION.format(root=root))

    def show(line: str | None) -> None:
        step.update(line[:100] if line else "...")

    install = ("install", "--download-only", "--yes", "--no-install-recommends", wanted.package)
    for arguments in (("update", "--error-on=any"), install):
        command = ("apt-get", f"--config-file={configuration}", *arguments)
        try:
            run_logged(command, log=wanted.log, within=FETCH_WITHIN, on_line=show)
        except HarnessError as error:
            raise HarnessError(f"{wanted.package} cannot be had from {archive} {wanted.suite}: {error}") from error
    return sorted((root / "cache/archives").glob("*.deb"))


def _write_wrapper(new: Path, wanted: Wanted) -> None:
    """Write the script that runs a program with its own release's loader and libraries, from where it will lie."""
    root, place = new / "root", wanted.target / "root"
    loader = next(iter(sorted(root.glob("**/lib/*-linux-gnu*/ld-linux*.so.*"))), None)
    if loader is None or not (root / wanted.program).exists():
        raise HarnessError(f"{wanted.package} of Debian {wanted.suite} has no {wanted.program}, or no loader for it.")
    folders = [f"{part}/{loader.parent.name}" for part in ("lib", "usr/lib")]
    path = ":".join(str(place / folder) for folder in folders if (root / folder).is_dir())
    words = ("exec", str(place / loader.relative_to(root)), "--library-path", path, str(place / wanted.program))
    script = new / "bin" / Path(wanted.program).name
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\n{shlex.join(words)} "$@"\n')
    script.chmod(0o755)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process at a time fetch; whoever waits finds what it wants afterwards."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _codename() -> str:
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values.get("VERSION_CODENAME", "").strip('"')
