"""Requests that no honest client sends, from a seed: for Triton's HTTP and for its gRPC front end.

Each begins as a request that is right, and a few things of it are changed:
numbers at the limits of their types, texts, missing and repeated fields,
bytes, headers that contradict the body, memory that is shared wrongly.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Final

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2

KEY: Final = "policyctl-client-fuzzed"
"""The file of /dev/shm that requests name: 4096 bytes, registered as ``region``."""

_NUMBERS: Final = (
    *(0, 1, -1, 2, 3, 4, 63, 64, 65, 255, 256, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1),
    *(2**53, 2**60 + 1, 2**61, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), 10**30),
)
_INT64: Final = tuple(number for number in _NUMBERS if -(2**63) <= number < 2**63)
_TEXTS: Final = (
    *("", "x", "observation", "action", "walker", "region", "FP32", "FP16", "INT64", "BYTES", "BOOL", "UINT8", "BF16"),
    *("\0", "a\0b", "../../etc/passwd", "%s%n", "é", "x" * 200, "x" * 70_000, "true", "-1", "1" * 30, KEY, "/" + KEY),
)
_PATHS: Final = (
    *("/v2/models/walker/infer",) * 12,
    *(
        "/v2/models/walker/versions/1/infer",
        "/v2/models/walker/versions/99999999999999999999/infer",
        "/v2/models//infer",
    ),
    *("/v2/models/walker/generate", "/v2/models/walker/generate_stream", "/v2/models/none/infer", "/v2/health/ready"),
    *(f"/v2/systemsharedmemory/region/{name}/register" for name in ("region", "other", "third")),
    *("/v2/systemsharedmemory/region/other/unregister", "/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status"),
    *(
        "/v2/cudasharedmemory/region/c/register",
        "/v2/models/walker/config",
        "/v2/models/walker/stats",
        "/v2/models/stats",
    ),
    *("/v2/repository/index", "/v2/repository/models/walker/load", "/v2/logging", "/v2/trace/setting", "/", "/%00"),
    *("/v2/models/%2e%2e/infer", "/v2/models/walker/infer?x=1&y", "/" + "a" * 5000, "*", "http://example.org/v2"),
)
_HEADERS: Final = {
    "Origin": ("http://example.org", "null"),
    "Host": ("example.org", "localhost:x", ""),
    "Content-Encoding": ("gzip", "deflate", "identity"),
    "Accept-Encoding": ("gzip",),
    "Expect": ("100-continue",),
    "Connection": ("close", "keep-alive", "x" * 3000),
    "traceparent": ("00-" + "1" * 32 + "-" + "1" * 16 + "-01",),
    "Inference-Header-Content-Length": (*map(str, _NUMBERS), "x", "1.5", " 5"),
    "Content-Length": (*map(str, _NUMBERS), "x", "+5", "0x10"),
    "Y" * 300: ("y",),
}
_METHODS: Final = (
    *("ModelInfer",) * 20,
    *("ModelStreamInfer",) * 4,
    *("SystemSharedMemoryRegister",) * 3,
    *("SystemSharedMemoryUnregister", "SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryStatus"),
    *("ModelConfig", "ModelMetadata", "ModelReady", "ModelStatistics", "ServerMetadata", "ServerLive", "ServerReady"),
    *("TraceSetting", "LogSettings", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
)


def http_request(rng: random.Random) -> bytes:
    """All bytes of one HTTP request, and sometimes of many or of a part."""
    path = rng.choice(_PATHS)
    headers, body = _tensors_behind(rng) if rng.random() < 0.2 else ({}, _json(rng, _document(rng, path)))
    lines = [("Host", "127.0.0.1"), *headers.items()]
    lines += [(name, rng.choice(_HEADERS[name])) for name in _HEADERS if rng.random() < 0.015]
    if rng.random() < 0.1:
        lines.append(("Transfer-Encoding", "chunked"))
        body = _chunks(rng, body)
    elif rng.random() < 0.98:
        lines.insert(rng.randrange(len(lines)), ("Content-Length", str(len(body))))
    method = rng.choice([*["POST"] * 9, "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "XX"])
    first = f"{method} {path} HTTP/{rng.choice([*['1.1'] * 8, '1.0', '2.0', '9'])}"
    head = "\r\n".join([first, *(f"{name}: {value}" for name, value in lines), "", ""])
    request = head.encode() + body
    if rng.random() < 0.08:
        request = _bytes_changed(rng, request)
    if rng.random() < 0.05:
        request = request[: rng.randrange(len(request))]
    return request * rng.choice([*[1] * 30, 2, 20])


def send_http(port: int, request: bytes, *, timeout_s: float = 0.3) -> bytes:
    """What the server answers; as much of it as comes in time, and nothing where it closes."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(1 << 16):
            answer += piece
    return answer


def grpc_request(rng: random.Random) -> tuple[str, bytes]:
    """A method of Triton's gRPC service, and the bytes of one message for it."""
    method = rng.choice(_METHODS)
    if method in ("ModelInfer", "ModelStreamInfer"):
        message: Message = _inference(rng)
    else:
        message = getattr(service_pb2, f"{method}Request")()
        _fill(rng, message)
    if method == "SystemSharedMemoryRegister" and rng.random() < 0.8:
        message.name, message.key = rng.choice(["other", "third"]), KEY  # type: ignore[attr-defined]
    if method == "SystemSharedMemoryUnregister":
        message.name = "other"  # type: ignore[attr-defined]
    data = message.SerializeToString()
    return method, _bytes_changed(rng, data) if data and rng.random() < 0.15 else data


def send_grpc(channel: grpc.Channel, method: str, message: bytes, rng: random.Random) -> grpc.StatusCode:
    """How the call ended; some are given up at once."""
    path = f"/inference.GRPCInferenceService/{method}"
    timeout_s = rng.choice([1.0, 1.0, 1.0, 0.002, 0.0005])
    try:
        if method == "ModelStreamInfer":
            list(channel.stream_stream(path)(iter([message] * rng.choice([1, 2, 5])), timeout=timeout_s))
        else:
            channel.unary_unary(path)(message, timeout=timeout_s)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def _document(rng: random.Random, path: str) -> Any:
    """What the JSON of a request for `path` says."""
    if "systemsharedmemory" in path:
        size = rng.choice([4096, *_NUMBERS])
        return {"key": rng.choice([KEY, *_TEXTS]), "offset": rng.choice([0, 0, *_NUMBERS]), "byte_size": size}
    if "cudasharedmemory" in path:
        handle = {"b64": rng.choice(["", "AAAA", "A" * 88, "A" * 100_000, *_TEXTS])}
        return {"raw_handle": handle, "device_id": rng.choice(_NUMBERS), "byte_size": rng.choice(_NUMBERS)}
    rows = rng.choice([1, 1, 2, 64, 65])
    tensor = {"name": "observation", "shape": [rows, 4], "datatype": "FP32", "data": [0.1] * 4 * rows}
    document = {"id": "7", "inputs": [tensor], "outputs": [{"name": "action"}], "parameters": {"priority": 1}}
    return _changed(rng, _shared(rng, document) if rng.random() < 0.25 else document)


def _shared(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    tensor = rng.choice([*document["inputs"], *document["outputs"]])
    tensor.pop("data", None)
    tensor["parameters"] = {
        "shared_memory_region": rng.choice(["region", "region", "none"]),
        "shared_memory_byte_size": rng.choice([16, *_NUMBERS]),
        "shared_memory_offset": rng.choice([0, 16, 4080, *_NUMBERS]),
    }
    return document


def _value(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(8):
        case 0 | 1 | 2:
            return rng.choice(_NUMBERS)
        case 3 | 4:
            return rng.choice(_TEXTS)
        case 5:
            return rng.choice([True, False, None, 0.5, -1e300, 1e308, float("nan")])
        case 6 if depth < 5:
            return [_value(rng, depth + 1) for _ in range(rng.choice([0, 1, 2, 4, 9]))]
        case _:
            return {rng.choice(_TEXTS): _value(rng, depth + 5) for _ in range(rng.randrange(4))}


def _changed(rng: random.Random, document: Any) -> Any:
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        where = list(_places(document))
        if not where or rng.random() < 0.02:
            return _value(rng)
        holder, at = rng.choice(where)
        if isinstance(holder, dict) and rng.random() < 0.2:
            del holder[at]
        elif isinstance(holder, list) and rng.random() < 0.2:
            holder += [holder[at]] * rng.choice([1, 3, 100])
        else:
            holder[at] = _value(rng)
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Places in lists and objects: what holds each, and its key or index. Of a long list the first two."""
    keys: Iterable[Any] = ()
    if isinstance(document, dict | list):
        keys = list(document) if isinstance(document, dict) else range(len(document))[: 2 if len(document) > 8 else 8]
    for key in keys:
        yield document, key
        yield from _places(document[key])


def _json(rng: random.Random, document: Any) -> bytes:
    text = bytearray(json.dumps(document).encode())
    for _ in range(rng.choice([0, 0, 0, 1, 3, 20])):
        at = rng.randrange(len(text) + 1)
        pieces = (
            b"[",
            b"{",
            b'"',
            b"\\",
            b"\0",
            b"]",
            b"}",
            b",",
            b"1e9999",
            b"\xff\xfe",
            b"[" * 200_000,
            b"-",
            text[:at],
        )
        text[at : at + rng.choice([0, 0, 1, 5, 50])] = rng.choice(pieces)
    return bytes(text)


def _tensors_behind(rng: random.Random) -> tuple[dict[str, str], bytes]:
    """A request whose tensors come as bytes behind the JSON."""
    rows = rng.choice([1, 2, 64])
    size = rng.choice([16 * rows] * 3 + [15, 17, 0])
    parameters = {"binary_data_size": rng.choice([size, size, *_NUMBERS])}
    tensor = {"name": "observation", "shape": [rows, 4], "datatype": "FP32", "parameters": parameters}
    document = {"inputs": [tensor], "outputs": [{"name": "action", "parameters": {"binary_data": True}}]}
    head = _json(rng, _changed(rng, document) if rng.random() < 0.3 else document)
    return {"Inference-Header-Content-Length": str(len(head))}, head + rng.randbytes(size)


def _chunks(rng: random.Random, body: bytes) -> bytes:
    size = rng.randrange(1, 500)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    end = rng.choice([b"0\r\n\r\n"] * 4 + [b"", b"ffffffffffffffff\r\n", b"-1\r\n", b"0\r\nA: b\r\n\r\n"])
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def _bytes_changed(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 10])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _inference(rng: random.Random) -> service_pb2.ModelInferRequest:
    request, rows = service_pb2.ModelInferRequest(model_name="walker"), rng.choice([1, 2, 64])
    tensor = request.inputs.add(name="observation", datatype="FP32", shape=[rows, 4])
    if rng.random() < 0.6:
        request.raw_input_contents.append(bytes(16 * rows))
    else:
        tensor.contents.fp32_contents.extend([0.5] * 4 * rows)
    if rng.random() < 0.5:
        request.outputs.add(name=rng.choice(["action", "none"]))
    if rng.random() < 0.25:
        _share(rng, rng.choice([tensor, *request.outputs]))
    match rng.randrange(7):
        case 0:
            tensor.shape[rng.randrange(2)] = rng.choice(_INT64)
        case 1:
            tensor.shape[:] = [rng.choice([0, 1, 2, -1, 4]) for _ in range(rng.choice([0, 1, 3, 100]))]
        case 2:
            tensor.datatype = rng.choice(_TEXTS)
        case 3:
            _fill(rng, tensor)
        case 4:
            _fill(rng, request)
    return request


def _share(rng: random.Random, tensor: Any) -> None:
    tensor.parameters["shared_memory_region"].string_param = "region"
    tensor.parameters["shared_memory_byte_size"].int64_param = rng.choice([16, *_INT64])
    tensor.parameters["shared_memory_offset"].int64_param = rng.choice([0, *_INT64])


def _fill(rng: random.Random, message: Any, depth: int = 0) -> None:
    """Set some fields of any protobuf message, and of those in it."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.6 or depth > 4:
            continue
        value, count = getattr(message, field.name), rng.choice([0, 1, 2, 5])
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                _fill(rng, value[rng.choice(["sequence_id", "priority", "timeout", "classification", "x"])], depth + 1)
        elif field.message_type is not None:
            for each in [value.add() for _ in range(count)] if hasattr(value, "add") else [value]:
                _fill(rng, each, depth + 1)
        else:
            with contextlib.suppress(ValueError, TypeError):  # a number that its type does not hold
                if hasattr(value, "extend"):
                    value.extend([_scalar(rng, field) for _ in range(count * rng.choice([1, 1, 20]))])
                else:
                    setattr(message, field.name, _scalar(rng, field))


def _scalar(rng: random.Random, field: FieldDescriptor) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return (
                rng.randbytes(rng.choice([0, 16, 17, 1000])) if field.type == field.TYPE_BYTES else rng.choice(_TEXTS)
            )
        case FieldDescriptor.CPPTYPE_BOOL | FieldDescriptor.CPPTYPE_ENUM:
            return rng.randrange(2)
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice([0.0, 1.5, float("nan"), 1e30])
        case _:
            return rng.choice(_INT64)
