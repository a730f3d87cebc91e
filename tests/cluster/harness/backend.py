"""What runs the cluster, and what builds its images: a node of our own, or kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.buildah import Buildah
from harness.engine_images import EngineImages
from harness.errors import HarnessError
from harness.identity import BackendName, Record
from harness.image_list import Image
from harness.kind import Kind, answering_engine
from harness.layout import Layout
from harness.node import Node
from harness.progress import Progress

CHOICE = "CELERY_OPERATOR_CLUSTER"
"""The environment variable that chooses by hand: `kind` or `node`."""


class Cluster(Protocol):
    """What can be done with a cluster, whatever runs it."""

    def up(self) -> None:
        """Start it from nothing, and return when it is ready."""

    def down(self) -> None:
        """End it, and remove everything but the cache."""

    def healthy(self) -> bool:
        """Say whether it runs completely."""

    def programs(self) -> dict[str, bool]:
        """Return what it consists of, and whether each part runs."""

    def import_image(self, archive: Path) -> None:
        """Make the image in an archive known to it."""

    def has_image(self, name: str) -> bool:
        """Say whether it knows an image by this full name."""

    def client_command(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """Return a command line that runs a command where Services and Pods can be reached."""


class ImageStore(Protocol):
    """What can be done with images, whatever builds them."""

    def build(self, image: Image) -> str:
        """Build an image and return its id."""

    def archive(self, image: Image, target: Path) -> None:
        """Write a built image to an archive."""

    def remove_everything(self) -> None:
        """Remove what was stored, as far as the store is ours."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to have a cluster."""

    name: BackendName
    cluster: Cluster
    images: ImageStore


def choose_backend(layout: Layout, progress: Progress) -> Backend:
    """Return the backend of the cluster that was started; else what this machine offers.

    Raises:
        HarnessError: The choice by hand is none, or kind is wanted and no container engine answers.
    """
    record = Record.read(layout)
    chosen = record.backend if record is not None else os.environ.get(CHOICE, "")
    if chosen not in {"", "kind", "node"}:
        raise HarnessError(f"{CHOICE} is {chosen!r}; expected 'kind' or 'node', or nothing.")
    if chosen == "node":
        return _node(layout, progress)
    engine = answering_engine()
    if engine is not None:
        return Backend("kind", Kind(layout, progress, engine), EngineImages(layout, progress, engine))
    if chosen == "kind":
        raise HarnessError("kind needs a container engine: neither `docker info` nor `podman info` is answered.")
    return _node(layout, progress)


def _node(layout: Layout, progress: Progress) -> Backend:
    return Backend("node", Node(layout, progress), Buildah(layout, progress))
