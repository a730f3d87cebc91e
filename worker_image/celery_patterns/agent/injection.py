"""The agent on its way into an image that does not hold it: an init container copies it into a volume of the pod.

Two small programs lie beside the package. Python puts the directory of the program it runs first on its search path, so
the image's own PYTHONPATH stays as it is, and nothing of the image is changed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import celery_patterns
from celery_patterns import protocol

PROGRAMS = {
    protocol.RUN_CELERY: "celery_patterns.agent.launch",
    protocol.RUN_AGENT: "celery_patterns.agent.__main__",
}
"""Each program's name, and the module whose ``main`` it runs."""


def inject(target: Path) -> None:
    """Copy the package and the programs into a directory; doing it again, as a restarted container does, is harmless.

    Raises:
        OSError: If the directory cannot be written to; the message names the path.
    """
    source = Path(celery_patterns.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    package = target / source.name
    shutil.copytree(source, package, ignore=ignored, copy_function=shutil.copyfile, dirs_exist_ok=True)
    for name, module in PROGRAMS.items():
        (target / name).write_text(f"import sys\n\nfrom {module} import main\n\nsys.exit(main())\n")
    # Whoever the image runs as must be able to read it.
    for path in (package, *package.rglob("*"), *(target / name for name in PROGRAMS)):
        path.chmod(0o755 if path.is_dir() else 0o644)
