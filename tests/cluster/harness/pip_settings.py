"""What pip on this machine is told about package indexes, so that pip inside an image build can be told the same. Pure.

It is handed to the build as a file that is mounted while it runs: neither the image nor the checkout learns of it.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterable, Mapping

_PASSED_ON = frozenset(
    {"extra-index-url", "find-links", "index-url", "no-index", "proxy", "retries", "timeout", "trusted-host"},
)
"""Where packages come from. Certificates are mounted under a path of the image, and other settings stay here."""

_ALSO_CALLED = {"default-timeout": "timeout"}


def pip_settings(files: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings about indexes.

    Args:
        files: The texts of pip's configuration files, in the order in which pip reads them: later ones win.
        environment: Variables such as PIP_INDEX_URL win over every file.
    """
    found: dict[str, str] = {}
    for text in files:
        parser = configparser.RawConfigParser()
        parser.read_string(text)
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update(parser.items(section))
    for name, value in environment.items():
        if name.startswith("PIP_"):
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    named = {_ALSO_CALLED.get(name, name): value for name, value in found.items() if value.strip()}
    return {name: value for name, value in sorted(named.items()) if name in _PASSED_ON}


def local_folders(settings: Mapping[str, str]) -> tuple[str, ...]:
    """Return the folders of this machine that pip looks for packages in."""
    places = settings.get("find-links", "").split()
    return tuple(place.removeprefix("file://") for place in places if place.startswith(("/", "file:///")))


def pip_conf(settings: Mapping[str, str], *, moved: Mapping[str, str], certificates: str) -> str:
    """Return a pip.conf for inside a build.

    Args:
        settings: What `pip_settings` returned.
        moved: Folders of this machine to where they are mounted inside.
        certificates: The path inside of the certificates to trust.
    """
    lines = ["[global]", f"cert = {certificates}"]
    for name, value in settings.items():
        values = value.split()
        if name == "find-links":
            values = [moved.get(place.removeprefix("file://"), place) for place in values]
        lines.append(f"{name} = " + "\n    ".join(values))
    return "\n".join(lines) + "\n"
