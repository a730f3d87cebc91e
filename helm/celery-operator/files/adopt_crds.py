"""Bring CRDs that another release left behind up to date, and write this release's name on them.

Runs in a pod before a release is installed; needs only the standard library and a service account that may patch the
CRDs. Takes a folder with one JSON file for each. Applying is idempotent: a second run changes nothing.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WITHIN = 30
"""Seconds for one answer of the API server."""


def main(folder: Path) -> int:
    """Apply every CRD of the folder; return the exit status."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    token = (ACCOUNT / "token").read_text(encoding="utf-8").strip()
    for path in sorted(folder.glob("*.json")):
        body = path.read_bytes()
        name = json.loads(body)["metadata"]["name"]
        request = urllib.request.Request(
            f"{server}/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=helm&force=true",
            data=body,
            method="PATCH",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"},
        )
        try:
            with urllib.request.urlopen(request, timeout=WITHIN, context=trusted) as response:
                sys.stdout.write(f"adopted {name}: {response.status}\n")
        except urllib.error.HTTPError as error:
            sys.stderr.write(f"cannot adopt {name}: {error.code} {error.read().decode()}\n")
            return 1
        except OSError as error:
            sys.stderr.write(f"cannot reach {server}: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
