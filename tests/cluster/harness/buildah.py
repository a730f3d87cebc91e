"""Building images without a container engine and without a registry."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from harness import debian, network
from harness.commands import run, run_logged, succeeds
from harness.errors import HarnessError
from harness.image_list import Image
from harness.layout import Layout
from harness.pip_settings import local_folders, pip_conf, pip_settings
from harness.progress import Progress, Step

_BASE = "localhost/celery-operator-base"
_PUBLIC_BASE = "docker.io/library/python:3.13-slim-trixie"
_SUITE = "trixie"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_BASE_REVISION = "1"
"""Raised when this module puts something else into the base image."""

_BASE_WITHIN = timedelta(minutes=20)
_BUILD_WITHIN = timedelta(minutes=20)
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PIP_FILES = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")


class Buildah:
    """An image store of our own, apart from whatever else buildah or podman keep on the machine."""

    def __init__(self, layout: Layout, progress: Progress) -> None:
        self._layout = layout
        self._progress = progress
        self._store = layout.cache / "image-store"
        self._run = layout.run.with_name(f"{layout.run.name}-images")

    def build(self, image: Image) -> str:
        """Build an image, reusing every layer that did not change, and return its id.

        Raises:
            HarnessError: The Dockerfile is missing, or the build failed; the message names the log.
        """
        if not image.dockerfile.exists():
            raise HarnessError(f"There is no {image.dockerfile} to build the image {image.short!r} from.")
        base = self.base()
        log = self._layout.build_logs / f"image-{image.short}.log"
        with self._progress.step(f"Building the image {image.name}") as step, self._pip_volumes() as volumes:
            run_logged(
                (
                    *self._buildah("bud"),
                    "--layers",
                    "--network=host",
                    f"--build-arg=BASE={base}",
                    f"--file={image.dockerfile}",
                    f"--tag={image.name}",
                    *(f"--volume={volume}" for volume in volumes),
                    str(image.context),
                ),
                log=log,
                within=_BUILD_WITHIN,
                on_line=_LastLine(step),
                environment={"BUILDAH_ISOLATION": "chroot"},
            )
        return self._id(image.name)

    def base(self) -> str:
        """Return the name of the base image, after making it if it is not there: Debian trixie with its Python 3.13.

        Raises:
            HarnessError: Neither Debian's archive nor a registry could be reached.
        """
        debian.install(self._layout, self._progress, debian.missing_for_images())
        key = hashlib.sha256(" ".join((_SUITE, *_PACKAGES, _BASE_REVISION)).encode()).hexdigest()[:12]
        name = f"{_BASE}:{key}"
        if self._exists(name):
            return name
        log = self._layout.build_logs / "image-base.log"
        with self._progress.step("Building the base image (Debian trixie with Python 3.13)") as step:
            try:
                self._bootstrap(name, log, step)
            except HarnessError as error:
                step.update(f"no Debian archive; pulling {_PUBLIC_BASE}")
                if not succeeds(self._buildah("pull", _PUBLIC_BASE), within=_BASE_WITHIN):
                    raise HarnessError(f"{error}\nNor could {_PUBLIC_BASE} be pulled in its place.") from error
                run(self._buildah("tag", _PUBLIC_BASE, name))
        return name

    def archive(self, image: Image, target: Path) -> None:
        """Write a built image to an archive, uncompressed: it stays on this machine."""
        run(
            (*self._buildah("push"), "--disable-compression", image.name, f"oci-archive:{target}:{image.name}"),
            within=_BUILD_WITHIN,
        )

    def remove_everything(self) -> None:
        """Remove the store with all images and layers."""
        for point in network.mounts_below(self._store, self._run):
            run(("umount", "--lazy", point))
        for folder in (self._store, self._run):
            shutil.rmtree(folder, ignore_errors=True)

    def _bootstrap(self, name: str, log: Path, step: Step) -> None:
        container = run(self._buildah("from", "scratch")).strip()
        try:
            root = Path(run(self._buildah("mount", container)).strip())
            command = (
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(_PACKAGES)}",
                _SUITE,
                str(root),
                *_mirror(),
            )
            run_logged(command, log=log, within=_BASE_WITHIN, on_line=_LastLine(step))
            _tidy(root)
            run(self._buildah("umount", container))
            run(self._buildah("config", "--cmd", "/bin/bash", "--env", "LANG=C.UTF-8", container))
            step.update("storing it")
            run((*self._buildah("commit"), "--quiet", "--rm", container, name), within=_BUILD_WITHIN)
        except BaseException:
            succeeds(self._buildah("rm", container))
            raise

    @contextmanager
    def _pip_volumes(self) -> Iterator[tuple[str, ...]]:
        """Yield what is mounted while a build runs, so that pip finds and trusts what it does on this machine."""
        texts = [path.read_text(encoding="utf-8") for path in _pip_files() if path.is_file()]
        settings = pip_settings(texts, os.environ)
        moved = {folder: f"/run/pip-packages-{index}" for index, folder in enumerate(local_folders(settings))}
        certificates = next((path for path in (os.environ.get("PIP_CERT"), _CERTIFICATES) if path), _CERTIFICATES)
        with tempfile.TemporaryDirectory() as folder:
            configuration = Path(folder) / "pip.conf"
            configuration.touch(mode=0o600)
            configuration.write_text(pip_conf(settings, moved=moved, certificates=_CERTIFICATES), encoding="utf-8")
            volumes = [f"{configuration}:/etc/pip.conf:ro", f"{certificates}:{_CERTIFICATES}:ro"]
            volumes += [f"{outside}:{inside}:ro" for outside, inside in moved.items() if Path(outside).is_dir()]
            yield tuple(volumes)

    def _exists(self, name: str) -> bool:
        return succeeds(self._buildah("inspect", "--type=image", name))

    def _id(self, name: str) -> str:
        return run(self._buildah("inspect", "--type=image", "--format={{.FromImageID}}", name)).strip()

    def _buildah(self, command: str, *arguments: str) -> tuple[str, ...]:
        self._store.mkdir(parents=True, exist_ok=True)
        own = (f"--root={self._store}", f"--runroot={self._run}", f"--storage-driver={self._driver()}")
        return ("buildah", *own, command, *arguments)

    def _driver(self) -> str:
        """Return the storage driver that works here: overlay cannot lie on another overlay, as inside a container."""
        chosen = self._store / "driver"
        if not chosen.exists():
            probe = ("buildah", f"--root={self._store}", f"--runroot={self._run}", "--storage-driver=overlay", "info")
            chosen.write_text("overlay" if succeeds(probe) else "vfs", encoding="utf-8")
        return chosen.read_text(encoding="utf-8")


class _LastLine:
    """Shows a program's latest line, shortened."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._last = "starting"

    def __call__(self, line: str | None) -> None:
        self._last = line or self._last
        self._step.update(self._last[:100])


def _pip_files() -> tuple[Path, ...]:
    named = os.environ.get("PIP_CONFIG_FILE")
    paths = (*_PIP_FILES, named) if named else _PIP_FILES
    return tuple(Path(path).expanduser() for path in paths)


def _mirror() -> tuple[str, ...]:
    """Return the Debian archive that this machine uses, as debootstrap's last argument; nothing for its default."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    if sources.exists():
        for line in sources.read_text(encoding="utf-8").splitlines():
            if line.startswith("URIs:") and "security" not in line:
                return (line.split()[1],)
    return ()


def _tidy(root: Path) -> None:
    """Make a bootstrapped system into a base image."""
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
        for path in (root / folder).glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    # Packages must not start their services in the middle of a build.
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)
    # The public Python image calls it so too.
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    # Mounted over while an image is built; a file that is there already leaves no trace of that.
    (root / "etc/pip.conf").touch()
