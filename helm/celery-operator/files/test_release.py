"""What `helm test` runs: are the CRDs served, and is an operator ready? Only the standard library.

Takes the URL of the operator's readiness. Waits up to a minute for both.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KINDS = {"CeleryApp", "CeleryWorkerPool", "CeleryWorkflow"}
WITHIN = 60
"""Seconds until it fails; readiness follows the pods with a delay."""


def missing_kinds() -> str:
    """Return which kinds the API server does not serve; empty if it serves all."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    token = (ACCOUNT / "token").read_text(encoding="utf-8").strip()
    request = urllib.request.Request(
        f"{server}/apis/celery-operator.dev/v1alpha1", headers={"Authorization": f"Bearer {token}"}
    )
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=5, context=trusted) as response:
        served = {resource["kind"] for resource in json.load(response)["resources"]}
    return ", ".join(sorted(KINDS - served))


def problem(ready_url: str) -> str:
    """Return what is wrong now; empty if nothing is."""
    try:
        missing = missing_kinds()
        if missing:
            return f"the API server does not serve {missing}"
        with urllib.request.urlopen(ready_url, timeout=5) as response:
            return "" if response.status == 200 else f"{ready_url} answers {response.status}"
    except OSError as error:
        return str(error)


def main(ready_url: str) -> int:
    """Ask until all is well or time is up; return the exit status."""
    deadline = time.monotonic() + WITHIN
    while found := problem(ready_url):
        if time.monotonic() > deadline:
            sys.stderr.write(f"{found}\n")
            return 1
        time.sleep(1)
    sys.stdout.write("the CRDs are served and the operator is ready\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
