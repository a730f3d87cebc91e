"""Building images with a container engine, for kind."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from harness.commands import run, run_logged
from harness.image_list import Image
from harness.kind import Engine
from harness.layout import Layout
from harness.progress import Progress

_BUILD_WITHIN = timedelta(minutes=20)


class EngineImages:
    """The image store of docker or podman."""

    def __init__(self, layout: Layout, progress: Progress, engine: Engine) -> None:
        self._layout = layout
        self._progress = progress
        self._engine = engine

    def build(self, image: Image) -> str:
        """Build an image from the public base that its Dockerfile names, and return its id.

        Raises:
            HarnessError: The build failed; the message names the log.
        """
        log = self._layout.build_logs / f"image-{image.short}.log"
        with self._progress.step(f"Building the image {image.name}") as step:
            run_logged(
                (self._engine, "build", f"--file={image.dockerfile}", f"--tag={image.name}", str(image.context)),
                log=log,
                within=_BUILD_WITHIN,
                on_line=lambda line: step.update((line or "waiting")[:100]),
            )
        return run((self._engine, "image", "inspect", "--format={{.Id}}", image.name)).strip()

    def archive(self, image: Image, target: Path) -> None:
        """Write a built image to an archive."""
        run((self._engine, "save", f"--output={target}", image.name), within=_BUILD_WITHIN)

    def remove_everything(self) -> None:
        """Leave the engine's store alone: it is not ours."""
