"""Servers with nobody to look after them, with the guard of Triton or without, and a receiver of their spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.promote import promote
from policyctl.services.publish import publish
from policyctl.serving import triton_guard
from policyctl.serving.backend_directory import assemble
from policyctl.serving.command import ServerOptions, Spans
from policyctl.serving.locate import locate
from policyctl.serving.native import NativeBackend
from policyctl.serving.ports import free_ports
from policyctl.serving.process import TritonProcess
from policyctl.settings import load
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_exporters import export_policy

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "cartpole"


@contextmanager
def receiver() -> Iterator[str]:
    """Takes spans and throws them away; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    finally:
        server.shutdown()
        server.server_close()


def prepared(folder: Path) -> tuple[Control, OpenRelease]:
    """A repository in `folder` whose ``cartpole`` can be loaded, and its release."""
    control = Control.of(load(repository=folder / "model_repository"))
    export_policy(EXAMPLES / "ppo-1.0.0.zip", folder / "1.0.0", trust_pickle=True)
    publish(control, folder / "1.0.0", model="cartpole", release="1.0.0")
    with BackgroundServer(control.repository.root, folder / "serve.log"):
        promote(control, model="cartpole", release="1.0.0", alias="production")
    return control, open_release(control.repository, control.repository.journal.state().release("cartpole", "1.0.0"))


@contextmanager
def unguarded(really: bool) -> Iterator[None]:
    """Servers that start meanwhile have no guard."""
    kept = triton_guard.find
    if really:
        triton_guard.find = lambda library=Path(): None
    try:
        yield
    finally:
        triton_guard.find = kept


@contextmanager
def bare_server(
    repository: Path,
    folder: Path,
    model: str,
    slot: int,
    *,
    spans: Spans | None = None,
    trace_file: Path | None = None,
    native: NativeBackend | None = None,
) -> Iterator[TritonProcess]:
    """One tritonserver with `slot` of `model` loaded and nobody to look after it.

    Args:
        repository: The model repository.
        folder: Where its backends are laid out.
        model: As it is served.
        slot: Which version.
        spans: It sends these, or
        trace_file: can write such files; it traces nothing without both.
        native: Serves OpenVINO artifacts; None for the Python-based backend.
    """
    http, grpc, metrics = free_ports(3)
    options = ServerOptions(
        repository=repository,
        backend_directory=assemble(locate(), folder / f"backends-{http}", native=native),
        spans=spans,
        trace_file=trace_file,
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
    )
    process = TritonProcess(options, on_log=lambda _: None)
    process.start()
    try:
        process.wait_live(timeout_s=30)
        client = Triton(Endpoint(http="", grpc=f"127.0.0.1:{grpc}"))
        client.load(model, slot)
        client.close()
        yield process
    finally:
        process.stop(timeout_s=2.0)
