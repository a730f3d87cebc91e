"""Making an image of one static program, without an image builder."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture(machine: str) -> str:
    """Return what container images and Go call a machine that `uname -m` calls otherwise."""
    return _MACHINES.get(machine, machine)


def write_image(
    target: Path, *, name: str, program: bytes, path: str, machine: str, user: str, labels: Mapping[str, str]
) -> None:
    """Write an OCI archive with an image that holds one file and runs it.

    The same input gives the same archive, byte by byte.

    Args:
        target: The archive to write.
        name: The image's full name with its tag.
        program: The content of the file.
        path: Where the file lies in the image, for instance `/pause`.
        machine: The architecture as containers call it.
        user: The user the program runs as, in numbers.
        labels: The image's labels.
    """
    layer = _tar({path.lstrip("/"): (program, 0o755)})
    configuration = _json(
        {
            "architecture": machine,
            "os": "linux",
            "config": {"Entrypoint": [path], "User": user, "WorkingDir": "/", "Labels": dict(labels)},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        },
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", configuration),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        },
    )
    described = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    index = _json({"schemaVersion": 2, "manifests": [{**described, "annotations": annotations}]})
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": (blob, 0o644) for blob in (layer, configuration, manifest)}
    archive = _tar(
        {"oci-layout": (_json({"imageLayoutVersion": "1.0.0"}), 0o644), "index.json": (index, 0o644), **blobs}
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    fresh.write_bytes(archive)
    fresh.replace(target)


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}
