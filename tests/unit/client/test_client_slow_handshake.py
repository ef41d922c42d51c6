"""A server that is busy while a client connects is waited for, within the deadline of the call."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from tritonclient.grpc import service_pb2 as messages

from policyctl.client.calls import FetchConfig
from policyctl.client.grpc_wire import GrpcTransport
from policyctl.client.served import ModelConfig

SLOW_S = 1.0
"""Longer than any interval between two attempts to connect."""


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes until the end."""
    try:
        while received := source.recv(65536):
            sink.sendall(received)
    except OSError:
        pass
    finally:
        sink.close()


@pytest.fixture
def slow_url() -> Iterator[str]:
    """Where a server answers each connection only after `SLOW_S`."""
    answer = grpc.unary_unary_rpc_method_handler(
        lambda request, context: messages.ModelConfigResponse().SerializeToString(),
    )
    handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelConfig": answer})
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    gate = socket.create_server(("127.0.0.1", 0))

    def pass_on() -> None:
        while True:
            try:
                client, _ = gate.accept()
            except OSError:
                return
            time.sleep(SLOW_S)
            inner = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, inner), (inner, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=pass_on, daemon=True).start()
    yield f"127.0.0.1:{gate.getsockname()[1]}"
    gate.shutdown(socket.SHUT_RDWR)
    gate.close()
    server.stop(0).wait()


def test_a_slow_handshake_is_waited_for(slow_url: str) -> None:
    """An attempt to connect is not given up for the next one."""
    transport = GrpcTransport("walker", slow_url)
    try:
        assert transport.perform(FetchConfig(), 60.0) == ModelConfig({}, 0)
    finally:
        transport.close()
