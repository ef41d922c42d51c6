"""Carry one call to a server on this machine through its local lane, and bring the reply.

Each thread has its connection (`local_session`). One whose call got no answer is
closed: the server drops the question, and no late answer can be taken for
another one. A session that ended while nobody asked, because the server was
started again, is replaced. Nothing that was sent is sent again.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import weakref
from typing import Any, Final

from policyctl.client.calls import COMPUTE_US, QUEUE_US, RELEASE, Answer, Call, FetchConfig, FetchCounters, Infer, Reply
from policyctl.client.errors import (
    OverloadedError,
    RefusedError,
    UnreachableError,
    deadline_error,
    translate,
    unreachable_error,
    unreadable_error,
)
from policyctl.client.http_wire import counters_of
from policyctl.client.local_messages import CONFIG, SERVED, STATISTICS, Code
from policyctl.client.local_session import EndedError, Given, ServersError, Session, TooSmallError, left_s
from policyctl.client.served import ModelConfig
from policyctl.errors import PolicyctlError
from policyctl.lane import path_of

_SMALLEST: Final = 64 << 10
"""Bytes of a session's memory, with room for configurations; a larger one is made where a call needs it."""
_SIZES: Final = 3
"""How many sizes are tried for one call."""
_FEWER: Final = "Ask from fewer threads or clients: each thread of each client has a session."
_OF_THE_LANE: Final = {
    Code.TOO_MANY_SESSIONS: (UnreachableError, _FEWER),
    Code.MEMORY_TAKEN: (UnreachableError, f"{_FEWER} Or raise server.max_request_mib."),
    Code.OTHER_USER: (UnreachableError, "Ask as that user, or over gRPC or HTTP."),
    Code.OTHER_VERSION: (RefusedError, "Use the same version of policyctl on both sides."),
    Code.MODEL_HANGS: (OverloadedError, "See whether the model hangs: policyctl status. Or give a longer deadline_s."),
}
"""What the lane itself refuses."""


class LocalTransport:
    """Blocking; safe to share between threads, each of which has its own connection.

    Args:
        model: The Triton model.
        url: ``local:`` or ``local:/path``.

    Raises:
        UsageError: `url` names no socket.
    """

    def __init__(self, model: str, url: str) -> None:
        self._model, self._url = model, url
        self._path = path_of(url)
        self._local = threading.local()
        # Weak, so that a thread that ends takes its session with it.
        # Without a lock, which another thread may hold at a fork: to add and to list are one step each.
        self._sessions: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()

    def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            UnsupportedError: The server belongs to another user.
            ServerError: As `errors.translate` says.
        """
        begin_ns, until, size_bytes = time.perf_counter_ns(), time.monotonic() + timeout_s, _SMALLEST
        for _ in range(_SIZES):
            try:
                return self._put(call, size_bytes, until, begin_ns)
            except TooSmallError as small:
                size_bytes = small.needed
            except ServersError as error:
                raise _translated(error, call.model or self._model, self._url) from None
            except TimeoutError as error:
                self._drop()
                raise deadline_error(self._model, self._url) from error
            except OSError as error:
                self._drop()
                raise _unreachable(self._url, error) from error
            except BaseException:
                self._drop()  # an answer may still come, and is not to be taken for that to another question
                raise
        raise unreadable_error(ValueError("the answers become longer each time"))

    def close(self) -> None:
        """End the sessions of all threads."""
        for reference in self._sessions.valuerefs():
            if (session := reference()) is not None:
                session.close()

    def _put(self, call: Call, size_bytes: int, until: float, begin_ns: int) -> Reply:
        """One request in this thread's session; errors are those of `Session`."""
        kept: Session | None = getattr(self._local, "session", None)
        session = self._session(size_bytes, until)
        try:
            return self._ask(session, call, until, begin_ns)
        except EndedError:
            if session is not kept:
                raise
        self._drop()
        return self._ask(self._session(size_bytes, until), call, until, begin_ns)

    def _ask(self, session: Session, call: Call, until: float, begin_ns: int) -> Reply:
        if isinstance(call, Infer):
            given = session.infer(call, call.model or self._model, left_s(until))
            return _answer(given, call, begin_ns)
        return self._describe(session, call, left_s(until))

    def _describe(self, session: Session, call: FetchConfig | FetchCounters, timeout_s: float) -> Reply:
        kind = CONFIG if isinstance(call, FetchConfig) else STATISTICS
        slot = SERVED if call.slot is None else call.slot
        try:
            head = json.loads(session.describe(kind, slot, call.model or self._model, timeout_s))
            return ModelConfig.from_json(head) if kind == CONFIG else counters_of(head)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise unreadable_error(error) from error

    def _session(self, size_bytes: int, until: float) -> Session:
        """This thread's session, with memory of at least so many bytes; not one of the process that this one left."""
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.size_bytes < size_bytes or session.process != os.getpid():
            self._drop()
            session = self._local.session = Session(self._path, size_bytes, until)
            self._sessions[id(session)] = session
        return session

    def _drop(self) -> None:
        session: Session | None = getattr(self._local, "session", None)
        if session is not None:
            session.close()
            self._local.session = None


def _translated(error: ServersError, model: str, url: str) -> PolicyctlError:
    if (known := _OF_THE_LANE.get(error.code)) is not None:
        kind, remedy = known
        return kind(f"{model} at {url}: {error.message}", remedy=remedy)
    return translate(error.code.name, error.message, model=model, url=url)


def _unreachable(url: str, error: OSError) -> UnreachableError:
    unreachable = unreachable_error(url, error)
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        unreachable.remedy = "Close files of this process, or allow more of them: ulimit -n."
    else:
        unreachable.remedy = "See that the server runs, and that server.lane names this socket: policyctl config show."
    return unreachable


def _answer(given: Given, call: Infer, begin_ns: int) -> Answer:
    parameters: dict[str, Any] = {RELEASE: given.release} if given.release else {}
    if call.timing:
        times_us = {QUEUE_US: given.queue_us, COMPUTE_US: given.compute_us}
        parameters |= {name: value for name, value in times_us.items() if value >= 0}
    return Answer(given.slot, given.request_id, given.outputs, parameters, (time.perf_counter_ns() - begin_ns) / 1e3)
