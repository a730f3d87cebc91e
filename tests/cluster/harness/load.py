"""Building images and importing those that changed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.backend import Backend
from harness.errors import HarnessError
from harness.image_list import IMAGES, Image
from harness.layout import Layout
from harness.progress import Progress


def chosen_images(names: Sequence[str]) -> tuple[Image, ...]:
    """Return the images of these short names.

    Raises:
        HarnessError: There is no image of such a name.
    """
    known = {image.short: image for image in IMAGES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise HarnessError(f"No image is called {', '.join(unknown)}; there are: {', '.join(known)}.")
    return tuple(known[name] for name in names)


def load_images(layout: Layout, progress: Progress, backend: Backend, images: Sequence[Image]) -> None:
    """Build images and import into the cluster those that it does not have in this form."""
    record = layout.state / "images.json"
    imported: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    for image in images:
        identity = backend.images.build(image)
        if imported.get(image.name) == identity and backend.cluster.has_image(image.name):
            progress.say(f"  {image.name} is in the cluster already")
            continue
        with progress.step(f"Importing {image.name}"), tempfile.TemporaryDirectory(dir=layout.cache) as folder:
            archive = Path(folder) / "image.tar"
            backend.images.archive(image, archive)
            backend.cluster.import_image(archive)
        imported[image.name] = identity
        record.write_text(json.dumps(imported, indent=2), encoding="utf-8")
