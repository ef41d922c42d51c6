"""A receiver of OpenTelemetry spans, OTLP over HTTP in JSON, as small as a test needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """What came in.

    Attributes:
        url: Where spans are to be sent.
        spans: Each with its attributes as a plain dict; `resource` holds those of its resource.
    """

    url: str
    spans: list[dict[str, Any]] = field(default_factory=list)

    def of_request(self, request_id: str) -> list[dict[str, Any]]:
        """The spans of one request's trace."""
        traces = {s["traceId"] for s in self.spans if s["attributes"].get("triton.request_id") == request_id}
        return [s for s in self.spans if s["traceId"] in traces]


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Listen on a free port of loopback while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in body["resourceSpans"]:
                about = _plain(resource["resource"]["attributes"])
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        span["attributes"] = _plain(span.get("attributes", []))
                        receiver.spans.append({**span, "resource": about})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {a["key"]: next(iter(a["value"].values())) for a in attributes}
