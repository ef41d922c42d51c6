"""One connection to the local lane of a server, with the memory that both share.

A message goes through a UNIX socket and tensors go through memory that the
server made for this connection (``backend_openvino/src/lane_message.h`` has the
format). What describes the tensors of a call is written once for each shape.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import socket
import struct
import time
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.client.calls import Infer
from policyctl.client.errors import unreadable_error
from policyctl.client.local_messages import (
    ANSWER,
    HELLO,
    INFER,
    MAGIC,
    MESSAGE_BYTES,
    NUMBERS,
    REQUEST,
    SERVED,
    TENSOR,
    TYPES,
    VERSION,
    Code,
    text,
    text_at,
)
from policyctl.client.regions import Layout
from policyctl.client.tensors import KEPT_SHAPES, NUMPY, Shapes, shapes_of
from policyctl.errors import UnsupportedError
from policyctl.lane import connect, user_of


class TooSmallError(Exception):
    """The memory has to have so many bytes."""

    def __init__(self, needed: int) -> None:
        self.needed = needed


class EndedError(ConnectionError):
    """The session had ended before the request was sent, so nothing was asked."""


class ServersError(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: bytes) -> None:
        self.code = Code(code)
        self.message = message.decode(errors="replace")


@dataclass(slots=True)
class Given:
    """A good answer.

    Attributes:
        slot: Which answered.
        request_id: As the server repeats it.
        release: Which answered; empty where the backend does not say.
        outputs: Copies, by name.
        queue_us: In the server; -1 where the backend does not say.
        compute_us: Likewise.
    """

    slot: int
    request_id: str
    release: str
    outputs: dict[str, NDArray[Any]]
    queue_us: int
    compute_us: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """What calls have in common whose tensors are described alike.

    Attributes:
        places: Where each input goes.
        answer_at: Where outputs may go.
        described: Model, outputs and inputs, as a request has them.
        counts: Of inputs and outputs.
    """

    places: tuple[NDArray[Any], ...]
    answer_at: int
    described: bytes
    counts: tuple[int, int]


class Session:
    """One connection, for one thread.

    Args:
        path: Of the server's socket.
        size_bytes: Of the memory.
        until: When it has to be open, by `time.monotonic`.

    Raises:
        OSError: Nobody listens there, or not in time.
        UnsupportedError: The server belongs to another user.
        ServersError: The server refuses the session.
        ServerError: What it says cannot be read.
    """

    def __init__(self, path: str, size_bytes: int, until: float) -> None:
        self.size_bytes = size_bytes
        self.process = os.getpid()
        self._plans: dict[Shapes, _Plan] = {}
        self._known: dict[bytes, tuple[str, tuple[tuple[str, NDArray[Any]], ...]]] = {}
        self._timeout_ms = 0
        self._socket = connect(path, left_s(until))
        # Also where nobody closes it: its thread may end and leave it.
        self._end = weakref.finalize(self, _end, self._socket, self.process)
        try:
            if user_of(self._socket) not in {0, os.geteuid()}:
                raise UnsupportedError(
                    f"the server at {path} belongs to another user",
                    remedy="Ask the server over gRPC or HTTP, or as its user.",
                )
            self._socket.settimeout(left_s(until))
            _require_good(self._socket.recv(MESSAGE_BYTES))
            self._socket.send(HELLO.pack(MAGIC, VERSION, size_bytes))
            self._socket.settimeout(left_s(until))
            message, files, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES, 1)
            self._memory = _mapped(message, files, size_bytes)
        except (ValueError, struct.error) as error:
            self.close()
            raise unreadable_error(error) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the session; the memory goes when nobody looks at it any more."""
        self._end()

    def infer(self, call: Infer, model: str, timeout_s: float) -> Given:
        """Ask, and wait for the answer; errors are those of `_ask`."""
        key = shapes_of(call)
        plan = self._plans.get(key) or self._plan(key, call, model)
        for place, array in zip(plan.places, call.inputs.values(), strict=True):
            place[...] = array
        start = REQUEST.pack(INFER, *plan.counts, max(1, int(timeout_s * 1e6)), SERVED, plan.answer_at)
        return self._ask(b"".join((start, text(call.request_id), plan.described)), timeout_s)

    def describe(self, kind: int, slot: int, model: str, timeout_s: float) -> bytes:
        """The JSON of a configuration or of statistics; errors are those of `_ask`, and a KeyError."""
        start = REQUEST.pack(kind, 0, 0, 0, slot, 0)
        given = self._ask(b"".join((start, text(""), text(model))), timeout_s)
        return given.outputs["json"].tobytes()

    def _ask(self, request: bytes, timeout_s: float) -> Given:
        """Send a request and wait for its answer.

        Raises:
            EndedError: The request was not sent.
            OSError: No answer in time, or none will come.
            TooSmallError: The answer does not fit into the memory.
            ServersError: The answer is an error.
            ServerError: It cannot be read.
        """
        # To set it is a system call; the deadline of most calls is that of the call before.
        if (timeout_ms := math.ceil(timeout_s * 1e3)) != self._timeout_ms:
            self._timeout_ms = timeout_ms
            self._socket.settimeout(timeout_ms / 1e3)
        try:
            self._socket.send(request)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EndedError(*error.args) from error
        if not (message := self._socket.recv(MESSAGE_BYTES)):
            raise ConnectionResetError("the server ended the session")
        try:
            code, _, slot, queue_us, compute_us, needed = ANSWER.unpack_from(message)
            request_id, at = text_at(message, ANSWER.size)
            rest = message[at:]
            if code == Code.TOO_SMALL:
                raise TooSmallError(needed)
            if code:
                raise ServersError(code, rest)
            release, outputs = self._known.get(rest) or self._learn(rest)
        except (ValueError, LookupError, struct.error) as error:
            raise unreadable_error(error) from error
        return Given(slot, request_id, release, {name: view.copy() for name, view in outputs}, queue_us, compute_us)

    def _plan(self, key: Shapes, call: Infer, model: str) -> _Plan:
        layout = Layout.of(call.inputs, call.specs)
        if layout.size_bytes > self.size_bytes:
            raise TooSmallError(layout.size_bytes)
        parts = [text(model), *map(text, call.outputs)]
        for place in layout.inputs:
            number, dimensions = NUMBERS[np.dtype(place.dtype)], len(place.shape)
            parts += [text(place.name), TENSOR.pack(number, dimensions, place.offset, place.size_bytes)]
            parts.append(struct.pack(f"<{dimensions}q", *place.shape))
        if len(self._plans) >= KEPT_SHAPES:
            self._plans.clear()
        plan = self._plans[key] = _Plan(
            places=tuple(self._view(p.offset, p.size_bytes, np.dtype(p.dtype), p.shape) for p in layout.inputs),
            answer_at=layout.outputs[0].offset if layout.outputs else layout.size_bytes,
            described=b"".join(parts),
            counts=(len(layout.inputs), len(call.outputs)),
        )
        return plan

    def _learn(self, rest: bytes) -> tuple[str, tuple[tuple[str, NDArray[Any]], ...]]:
        """What describes the outputs of an answer; remembered, because the next answers say the same."""
        release, at = text_at(rest, 0)
        outputs = []
        while at < len(rest):
            name, at = text_at(rest, at)
            number, dimensions, offset, size_bytes = TENSOR.unpack_from(rest, at)
            at += TENSOR.size
            shape = struct.unpack_from(f"<{dimensions}q", rest, at)
            at += 8 * dimensions
            if min(shape, default=0) < 0:  # NumPy would work such a dimension out
                raise ValueError(f"{name} has the shape {shape}")
            outputs.append((name, self._view(offset, size_bytes, NUMPY[TYPES[number]], shape)))
        if len(self._known) >= KEPT_SHAPES:
            self._known.clear()
        self._known[rest] = (release, tuple(outputs))
        return self._known[rest]

    def _view(self, offset: int, size_bytes: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        flat = np.frombuffer(self._memory, np.uint8)[offset : offset + size_bytes]
        view: NDArray[Any] = flat.view(dtype).reshape(shape)
        return view


def left_s(until: float) -> float:
    """What is left of a deadline, by `time.monotonic`.

    Raises:
        TimeoutError: Nothing.
    """
    if (left := until - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _end(connection: socket.socket, process: int) -> None:
    # A child process may have a copy of it, and the session would go on; but a child ends no session of its parent.
    if os.getpid() == process:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _require_good(message: bytes) -> None:
    if not message:
        raise ConnectionResetError("the server ended the session")
    code, *_ = ANSWER.unpack_from(message)
    if code:
        raise ServersError(code, message[ANSWER.size + 1 :])


def _mapped(message: bytes, files: list[int], size_bytes: int) -> mmap.mmap:
    """The memory that the server hands over."""
    try:
        _require_good(message)
        if not files:  # the kernel leaves it out where this process can have no more
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return mmap.mmap(files[0], size_bytes)
    finally:
        for file in files:
            os.close(file)
