"""Carry one call to Triton over HTTP and bring the reply, blocking or by asyncio.

Requests and answers are written and read by tritonclient, tensors as binary
data. The blocking transport does not use tritonclient's connection, which is
built on gevent: that one may not be shared between threads, leaves two file
descriptors behind for every thread that used it, and sends a request again by
itself when a connection breaks (measured with 2.51.0). Here each thread has a
plain connection from the standard library, which takes the same time.

A connection that the server has closed while it was idle is opened again once:
then no byte of an answer had come.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from policyctl.client.errors import deadline_error, translate, unreachable_error
from policyctl.client.exchange import Answer, Call, Counters, FetchConfig, FetchCounters, Infer, Reply
from policyctl.client.served import ModelConfig
from policyctl.client.trace_context import HEADER
from policyctl.errors import ServerError

_HEADER_LENGTH = "Inference-Header-Content-Length"


class _Common:
    """What the two transports have in common: everything but waiting."""

    def __init__(self, model: str, url: str) -> None:
        self._model = model
        self._url = url
        self._requested: dict[tuple[str, ...], list[Any]] = {}

    def _arguments(self, call: Infer, timeout_s: float) -> dict[str, Any]:
        return {
            "inputs": [_input(name, array) for name, array in call.inputs.items()],
            "outputs": self._outputs(call.outputs),
            "request_id": call.request_id,
            "timeout": max(1, int(timeout_s * 1e6)),
        }

    def _outputs(self, names: tuple[str, ...]) -> list[Any]:
        found = self._requested.get(names)
        if found is None:
            found = [triton.InferRequestedOutput(name, binary_data=True) for name in names]
            self._requested[names] = found
        return found

    def _translated(self, error: InferenceServerException) -> Exception:
        return translate(str(error.status() or ""), str(error.message() or ""), model=self._model, url=self._url)


class HttpTransport(_Common):
    """Blocking; safe to share between threads, each of which has its own connection."""

    def __init__(self, model: str, url: str) -> None:
        super().__init__(model, url)
        self._local = threading.local()
        # Weak, so that a thread that ends takes its connection with it.
        self._connections: weakref.WeakSet[http.client.HTTPConnection] = weakref.WeakSet()
        self._lock = threading.Lock()

    def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        try:
            match call:
                case Infer():
                    return self._infer(call, timeout_s)
                case FetchConfig(slot):
                    return ModelConfig.from_json(json.loads(self._get(slot, "config", timeout_s)))
                case FetchCounters(slot):
                    return _counters(json.loads(self._get(slot, "stats", timeout_s)))
        except TimeoutError as error:
            self._drop()
            raise deadline_error(self._model, self._url) from error
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise unreachable_error(self._url, error) from error

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._connections:
                connection.close()

    def _infer(self, call: Infer, timeout_s: float) -> Answer:
        begin = time.perf_counter_ns()
        body, length = triton.InferenceServerClient.generate_request_body(**self._arguments(call, timeout_s))
        headers = _headers(call) | ({} if length is None else {_HEADER_LENGTH: str(length)})
        content, answer_length = self._request(
            "POST", f"/v2/models/{quote(self._model)}/infer", body, headers, timeout_s
        )
        result = triton.InferenceServerClient.parse_response_body(content, header_length=answer_length)
        return _answer(result, call, time.perf_counter_ns() - begin)

    def _get(self, slot: int | None, what: str, timeout_s: float) -> bytes:
        version = "" if slot is None else f"/versions/{slot}"
        content, _ = self._request("GET", f"/v2/models/{quote(self._model)}{version}/{what}", None, {}, timeout_s)
        return content

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[bytes, int | None]:
        connection, used = self._connection(timeout_s)
        try:
            connection.request(method, path, body=body, headers=dict(headers))
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if not used:
                raise
            self._drop()
            return self._request(method, path, body, headers, timeout_s)
        content = response.read()
        if response.status != http.HTTPStatus.OK:
            raise translate(str(response.status), _message(content), model=self._model, url=self._url)
        length = response.headers.get(_HEADER_LENGTH)
        return content, None if length is None else int(length)

    def _connection(self, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection, and whether it is open already."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._url)
            self._local.connection = connection
            with self._lock:
                self._connections.add(connection)
        connection.timeout = timeout_s
        if connection.sock is None:
            return connection, False
        connection.sock.settimeout(timeout_s)
        return connection, True

    def _drop(self) -> None:
        """Close this thread's connection: an answer may still arrive on it, too late."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()


class AioHttpTransport(_Common):
    """For asyncio; belongs to the loop it was made in."""

    def __init__(self, model: str, url: str) -> None:
        from tritonclient.http import aio

        super().__init__(model, url)
        # Its own timeout would be one for all calls; `perform` has one a call.
        self._client = aio.InferenceServerClient(url, conn_timeout=3600.0)

    async def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            ServerError: As `errors.translate` says.
        """
        from aiohttp import ClientError

        try:
            async with asyncio.timeout(timeout_s):
                return await self._perform(call, timeout_s)
        except InferenceServerException as error:
            raise self._translated(error) from error
        except TimeoutError as error:
            raise deadline_error(self._model, self._url) from error
        except (ClientError, OSError) as error:
            raise unreachable_error(self._url, error) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _perform(self, call: Call, timeout_s: float) -> Reply:
        match call:
            case Infer():
                begin = time.perf_counter_ns()
                arguments = self._arguments(call, timeout_s)
                result = await self._client.infer(self._model, **arguments, headers=_headers(call))
                return _answer(result, call, time.perf_counter_ns() - begin)
            case FetchConfig(slot):
                version = "" if slot is None else str(slot)
                return ModelConfig.from_json(await self._client.get_model_config(self._model, version))
            case FetchCounters(slot):
                return _counters(await self._client.get_inference_statistics(self._model, str(slot)))


def _headers(call: Infer) -> dict[str, str]:
    return {HEADER: call.traceparent} if call.traceparent else {}


def _input(name: str, array: NDArray[Any]) -> Any:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=True)
    return tensor


def _answer(result: Any, call: Infer, elapsed_ns: int) -> Answer:
    response = result.get_response()
    outputs: Mapping[str, Any] = {name: result.as_numpy(name) for name in call.outputs}
    return Answer(
        slot=int(response["model_version"]),
        request_id=str(response.get("id", "")),
        # Copies: what NumPy reads out of a message cannot be written to.
        outputs={name: array.copy() for name, array in outputs.items() if array is not None},
        parameters=dict(response.get("parameters") or {}),
        round_trip_us=elapsed_ns / 1e3,
    )


def _counters(data: Mapping[str, Any]) -> Counters:
    if not data.get("model_stats"):
        raise ServerError("the server's statistics name no model")
    stats = data["model_stats"][0]["inference_stats"]
    return Counters(
        requests=int(stats["success"]["count"]),
        queue_ns=int(stats["queue"]["ns"]),
        compute_ns=sum(int(stats[part]["ns"]) for part in ("compute_input", "compute_infer", "compute_output")),
    )


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:500].decode("utf-8", errors="replace")
