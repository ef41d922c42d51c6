"""Carry one call to Triton over HTTP and bring the reply, blocking or by asyncio.

Tensors travel as binary data. The blocking transport does not use tritonclient's
connection, which is built on gevent: that one may not be shared between threads,
leaves two file descriptors behind for every thread that used it, and sends a
request again by itself when a connection breaks (measured with 2.51.0). Here
each thread has its connection (`http_connection`).
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import threading
import weakref
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any
from urllib.parse import quote

import numpy as np

from policyctl.client.calls import Answer, Call, Counters, FetchConfig, FetchCounters, Infer, Reply
from policyctl.client.errors import deadline_error, translate, unreachable_error, unreadable_error
from policyctl.client.http_connection import TENSORS_AT, Answered, Connection
from policyctl.client.served import ModelConfig
from policyctl.client.tensors import DATATYPES, KEPT_SHAPES, NUMPY, Shapes, shapes_of, size_of
from policyctl.client.trace_context import HEADER
from policyctl.errors import UnsupportedError


class _Common:
    """What the two transports have in common: everything but waiting."""

    def __init__(self, model: str, url: str) -> None:
        self._model = model
        self._url = url
        self._path = _path(model)

    def _path_of(self, call: Call) -> str:
        path = _path(call.model) if call.model else self._path
        match call:
            case Infer():
                return f"{path}/infer"
            case FetchConfig(slot):
                return f"{path}{'' if slot is None else f'/versions/{slot}'}/config"
            case FetchCounters(slot):
                return f"{path}/versions/{slot}/stats"

    def _text(self, call: Infer, timeout_s: float) -> bytes:
        """The body of a request up to its tensors."""
        request_id, timeout_us = json.dumps(call.request_id).encode(), max(1, int(timeout_s * 1e6))
        return b'{"id":%b,"parameters":{"timeout":%d},%b' % (request_id, timeout_us, _describe(shapes_of(call)))

    def _reply(self, call: Call, answered: Answered, begin_ns: int) -> Reply:
        """What the server's answer to `call` says.

        Raises:
            ServerError: It is an error, or is not as Triton writes it.
        """
        if answered.status != http.HTTPStatus.OK:
            raise translate(
                str(answered.status), _message(answered.content), model=call.model or self._model, url=self._url
            )
        try:
            head = json.loads(answered.content[: answered.tensors_at])
            match call:
                case Infer():
                    return _answer(head, answered, begin_ns)
                case FetchConfig():
                    return ModelConfig.from_json(head)
                case FetchCounters():
                    return counters_of(head)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise unreadable_error(error) from error


def _path(model: str) -> str:
    return f"/v2/models/{quote(model)}"


class HttpTransport(_Common):
    """Blocking; safe to share between threads, each of which has its own connection."""

    def __init__(self, model: str, url: str) -> None:
        super().__init__(model, url)
        self._local = threading.local()
        # Weak, so that a thread that ends takes its connection with it.
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._lock = threading.Lock()

    def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        begin_ns, path, text, tensors = perf_counter_ns(), self._path_of(call), b"", b""
        if isinstance(call, Infer):
            text, tensors = self._text(call, timeout_s), _content(call)
            trace = f"{HEADER}: {call.traceparent}\r\n" if call.traceparent else ""
            sizes = f"Content-Length: {len(text) + len(tensors)}\r\n{TENSORS_AT}: {len(text)}\r\n"
            start = f"POST {path} HTTP/1.1\r\n{sizes}{trace}"
        else:
            start = f"GET {path} HTTP/1.1\r\n"
        try:
            answered = self._connection().ask(start.encode(), text, tensors, timeout_s)
        except TimeoutError as error:
            raise deadline_error(self._model, self._url) from error
        except (OSError, http.client.HTTPException) as error:
            raise unreachable_error(self._url, error) from error
        return self._reply(call, answered, begin_ns)

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._connections:
                connection.close()

    def _connection(self) -> Connection:
        """This thread's connection."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = Connection(self._url)
            with self._lock:
                self._connections.add(connection)
        return connection


class AioHttpTransport(_Common):
    """For asyncio; belongs to the loop it was made in.

    Raises:
        UnsupportedError: aiohttp is not installed.
    """

    def __init__(self, model: str, url: str) -> None:
        try:
            import aiohttp
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                f"asking over HTTP by asyncio needs {error.name}, which is not installed",
                remedy="pip install 'policyctl[http]'; gRPC needs nothing more.",
            ) from error
        super().__init__(model, url)
        self._session = aiohttp.ClientSession(
            f"http://{url}",
            headers={"Accept-Encoding": "identity"},  # else Triton compresses its few numbers
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `perform` has one a call
        )

    async def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        from aiohttp import ClientError

        begin_ns, method, body, headers = perf_counter_ns(), "GET", None, {}
        if isinstance(call, Infer):
            text = self._text(call, timeout_s)
            method, body = "POST", text + _content(call)
            headers = {TENSORS_AT: str(len(text))} | ({HEADER: call.traceparent} if call.traceparent else {})
        path = self._path_of(call)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(method, path, data=body, headers=headers) as response,
            ):
                tensors_at = response.headers.get(TENSORS_AT)
                answered = Answered(response.status, await response.read(), int(tensors_at) if tensors_at else None)
        except TimeoutError as error:
            raise deadline_error(self._model, self._url) from error
        except (ClientError, OSError) as error:
            raise unreachable_error(self._url, error) from error
        return self._reply(call, answered, begin_ns)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


@functools.lru_cache(KEPT_SHAPES)
def _describe(shapes: Shapes) -> bytes:
    """What describes the tensors; made once for each shape."""
    _, names, tensors = shapes
    inputs = [
        {
            "name": name,
            "shape": shape,
            "datatype": DATATYPES[dtype],
            "parameters": {"binary_data_size": size_of(shape, dtype)},
        }
        for name, shape, dtype in tensors
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in names]
    return json.dumps({"inputs": inputs, "outputs": outputs})[1:].encode()


def _content(call: Infer) -> bytes:
    """The tensors of a request."""
    contents = [array.tobytes() for array in call.inputs.values()]
    return contents[0] if len(contents) == 1 else b"".join(contents)


def _answer(head: Mapping[str, Any], answered: Answered, begin_ns: int) -> Answer:
    content, outputs = answered.content, {}
    offset = len(content) if answered.tensors_at is None else answered.tensors_at
    for output in head["outputs"]:
        end = offset + output["parameters"]["binary_data_size"]
        # In a copy that can be written to, and that is aligned.
        flat = np.frombuffer(bytearray(content[offset:end]), NUMPY[output["datatype"]])
        outputs[output["name"]] = flat.reshape(output["shape"])
        offset = end
    return Answer(
        int(head["model_version"]),
        str(head.get("id", "")),
        outputs,
        head.get("parameters") or {},
        (perf_counter_ns() - begin_ns) / 1e3,
    )


def counters_of(head: Mapping[str, Any]) -> Counters:
    """The statistics that `head` is, the JSON of ``/v2/models/M/versions/N/stats``."""
    stats = head["model_stats"][0]["inference_stats"]
    return Counters(
        requests=int(stats["success"]["count"]),
        queue_ns=int(stats["queue"]["ns"]),
        compute_ns=sum(int(stats[part]["ns"]) for part in ("compute_input", "compute_infer", "compute_output")),
    )


def _message(content: bytes | bytearray) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:500].decode("utf-8", errors="replace")
