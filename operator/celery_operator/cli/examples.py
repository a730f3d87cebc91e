"""The bundled examples: files of the package, or of the checkout that it is installed from."""

from __future__ import annotations

from pathlib import Path

import celery_operator
from celery_operator.local.manifests import did_you_mean

_PACKAGE = Path(celery_operator.__file__).parent


class UnknownExampleError(LookupError):
    """There is no example of that name; the message lists those that there are."""


def examples() -> dict[str, Path]:
    """Return the examples: short name (``add`` of ``01-add.yaml``) -> file, in their order."""
    for folder in (_PACKAGE / "examples", _PACKAGE.parents[1] / "examples"):
        files = sorted(folder.glob("[0-9][0-9]-*.yaml"))
        if files:
            return {file.stem[3:]: file for file in files}
    return {}


def find_example(name: str) -> Path:
    """Return the file of an example by its short name, its number or its file name. Raises UnknownExampleError."""
    known = examples()
    wanted = name.removesuffix(".yaml")
    for short, file in known.items():
        if wanted in (short, file.stem, file.stem[:2], file.stem[:2].lstrip("0")):
            return file
    hint = did_you_mean(wanted, [*known])
    raise UnknownExampleError(f"there is no example {name!r}; there are {', '.join(known)}.{hint}")


def summary(file: Path) -> str:
    """Return the first sentence of an example's leading comment."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.strip() == "#":
            break
        lines.append(line.lstrip("# "))
    text = " ".join(lines)
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]
