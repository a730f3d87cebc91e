"""Stands in for a worker: answers its readiness, notes what happens to it in files, and ends when told to.

stand_in.py [unready] [crash] [stubborn] [parent] [note=DIRECTORY]
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

WORDS = sys.argv[1:]
NOTE = next((Path(word.removeprefix("note=")) for word in WORDS if word.startswith("note=")), None)


def note(what: str, text: str = "") -> None:
    if NOTE is not None:
        with (NOTE / f"{os.environ['HOSTNAME']}.{what}").open("a") as file:
            file.write(text + "\n")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/drain":
            note("drained")
        self.send_response(503 if "unready" in WORDS else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # type: ignore[explicit-override] # noqa: A002
        """Say nothing."""


def on_term(*_: object) -> None:
    note("terminated")
    if "stubborn" not in WORDS:
        ended.set()


sys.stdout.write("started\n")
sys.stdout.flush()
note("started", json.dumps(dict(os.environ)))
if "crash" in WORDS:
    sys.exit(3)
ended = threading.Event()
signal.signal(signal.SIGTERM, on_term)
if "parent" in WORDS:  # a child that has left the process group, as a task might start one
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    note("child", str(child.pid))
server = http.server.HTTPServer((os.environ["CELERY_AGENT_HOST"], 9540), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
while not ended.wait(0.05):
    pass
