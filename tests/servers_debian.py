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
DONE = ".unpacked"
"""A file in a folder that is complete."""
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
    """A package of a release of Debian, with all that it depends on.

    Attributes:
        suite: The release.
        package: Its name.
        programs: Patterns of the programs in it that are to run, as paths without the first slash.
        target: The folder to make: what the package has in ``/usr/bin`` is in ``usr/bin`` of it.
        log: Receives what apt-get says.
        scripts: Scripts in it that name the folder ``scripts_folder`` and are to name the one below target instead.
        scripts_folder: Such a folder.
    """

    suite: str
    package: str
    programs: tuple[str, ...]
    target: Path
    log: Path
    scripts: tuple[str, ...] = ()
    scripts_folder: str = ""


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
    """Make the programs of a package available; nothing is done if it is there.

    Args:
        archive: URI of Debian's archive.
        wanted: The package.
        progress: Shows what goes on.

    Raises:
        HarnessError: The archive does not answer, or has no such package.
    """
    target = wanted.target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.parent / "lock"), tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        if (target / DONE).exists():
            return
        root = Path(folder) / "root"
        root.mkdir()
        with progress.step(f"Fetching {wanted.package} of Debian {wanted.suite}") as step:
            for package in _download(archive, wanted, Path(folder), step):
                run(("dpkg-deb", "-x", str(package), str(root)))
            _wrap(root, wanted)
        if target.exists():
            shutil.rmtree(target)
        root.rename(target)


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


def _wrap(root: Path, wanted: Wanted) -> None:
    """Put a script in each program's place that runs it with its own release's loader and libraries.

    Raises:
        HarnessError: What was fetched lacks the programs, or a loader.
    """
    loader = next(iter(sorted(root.glob("**/lib/*-linux-gnu*/ld-linux*.so.*"))), None)
    programs = [path for pattern in wanted.programs for path in root.glob(pattern) if _is_program(path)]
    if loader is None or not programs:
        what = " or ".join(wanted.programs)
        raise HarnessError(f"{wanted.package} of Debian {wanted.suite} has no {what}, or no loader for it.")

    def there(path: Path) -> str:
        """Return where a file will lie."""
        return str(wanted.target / path.relative_to(root))

    folders = [root / part / loader.parent.name for part in ("lib", "usr/lib")]
    libraries = ":".join(there(folder) for folder in folders if folder.is_dir())
    for program in programs:
        moved = program.rename(program.with_name(f"{program.name}.real"))
        words = ("exec", there(loader), "--library-path", libraries, there(moved))
        program.write_text(f'#!/bin/sh\n{shlex.join(words)} "$@"\n')
        program.chmod(0o755)
    for script in wanted.scripts:
        text = (root / script).read_text(encoding="utf-8")
        here = str(wanted.target / wanted.scripts_folder.lstrip("/"))
        (root / script).write_text(text.replace(wanted.scripts_folder, here), encoding="utf-8")
    (root / DONE).touch()


def _is_program(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


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
