"""Real servers, plain and TLS, that answer as a test says: registries, token services, storage, and what is inside."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAMES = {
    "registry.test": "127.0.0.1",
    "auth.test": "127.0.0.1",
    "storage.test": "127.0.0.1",
    "inside.test": "127.0.0.2",
}
"""The hosts of the tests, and where they are; 127.0.0.2 stands for a private network."""

Answer = tuple[int, dict[str, str], bytes]


class Request(NamedTuple):
    """What a server was asked."""

    method: str
    path: str
    headers: dict[str, str]


class Raw(NamedTuple):
    """Bytes of an answer from its first line on, part by part; the iterator makes the pauses."""

    parts: Iterator[bytes]


class Servers:
    """The servers of one test."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        self._key_file = folder / "key.pem"
        self._running: list[ThreadingHTTPServer] = []

    def start(
        self, answer: Callable[[Request], Answer | Raw], *, tls: bool = False, address: str = "127.0.0.1"
    ) -> tuple[int, list[Request]]:
        """Start a server; its port, and what it was asked."""
        asked: list[Request] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                request = Request(self.command, self.path, dict(self.headers.items()))
                asked.append(request)
                found = answer(request)
                if isinstance(found, Raw):
                    for part in found.parts:
                        self.wfile.write(part)
                    self.close_connection = True
                    return
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, more, body = found
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815

            def log_message(self, *_args: object) -> None: ...

        server = ThreadingHTTPServer((address, 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # a client that hangs up in the middle is what some tests are about
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._write_certificates()
            context.load_cert_chain(self.ca_file, self._key_file)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self._running.append(server)
        return server.server_port, asked

    def stop(self) -> None:
        """Stop them all."""
        for server in self._running:
            server.shutdown()
            server.server_close()

    def _write_certificates(self) -> None:
        """One certificate, which signs itself, for every name."""
        if self.ca_file.exists():
            return
        key, name = (
            ec.generate_private_key(ec.SECP256R1()),
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "t")]),
        )
        now = datetime.datetime.now(datetime.UTC)
        hosts = [x509.DNSName(host) for host in NAMES] + [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def resolve(host: str, *args: object, genuine: Callable[..., object] = socket.getaddrinfo, **more: object) -> object:
    """`socket.getaddrinfo` that knows the hosts of the tests."""
    return genuine(NAMES.get(host, host), *args, **more)
