"""Serves numbered batches on DATA_PORT: GET /batch/7 is seven numbers; GET /ready says whether there are any."""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECONDS_TO_LOAD = 1.0
loaded_at = time.monotonic() + SECONDS_TO_LOAD


class Batches(BaseHTTPRequestHandler):
    """Answers once its data is loaded."""

    def do_GET(self) -> None:
        """One request."""
        ready = time.monotonic() >= loaded_at
        number = self.path.rpartition("/")[2]
        known = self.path == "/ready" or number.isdigit()
        body = json.dumps(list(range(int(number))) if number.isdigit() else ready).encode()
        self.send_response(200 if ready and known else 503 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing of each request."""


with ThreadingHTTPServer(("127.0.0.1", int(os.environ["DATA_PORT"])), Batches) as server:
    print("loading", flush=True)
    server.serve_forever()
