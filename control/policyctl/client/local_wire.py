"""Carry one call to a server on this machine through its local lane, and bring the reply.

Each thread has its connection (`local_session`). One whose call got no answer is
closed: the server drops the question, and no late answer can be taken for
another one.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from typing import Any, Final

from policyctl.client.calls import COMPUTE_US, QUEUE_US, RELEASE, Answer, Call, FetchConfig, FetchCounters, Infer, Reply
from policyctl.client.errors import deadline_error, translate, unreachable_error, unreadable_error
from policyctl.client.http_wire import counters_of
from policyctl.client.local_session import CONFIG, SERVED, STATISTICS, Given, ServersError, Session, TooSmallError
from policyctl.client.served import ModelConfig
from policyctl.lane import path_of

_SMALLEST: Final = 64 << 10
"""Bytes of a session's memory, with room for configurations; a larger one is made where a call needs it."""
_SIZES: Final = 3
"""How many sizes are tried for one call."""


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
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lock = threading.Lock()

    def perform(self, call: Call, timeout_s: float) -> Reply:
        """Make `call` and wait at most `timeout_s`.

        Raises:
            UnsupportedError: The server belongs to another user.
            ServerError: As `errors.translate` says.
        """
        begin_ns, size_bytes, left_s = time.perf_counter_ns(), _SMALLEST, timeout_s
        for _ in range(_SIZES):
            try:
                session = self._session(size_bytes, left_s)
                if isinstance(call, Infer):
                    given = session.infer(call, call.model or self._model, left_s)
                    return _answer(given, call, begin_ns)
                return self._describe(session, call, left_s)
            except TooSmallError as small:
                size_bytes = small.needed
                left_s = max(1e-3, timeout_s - (time.perf_counter_ns() - begin_ns) / 1e9)
            except ServersError as error:
                model = call.model or self._model
                raise translate(error.status, error.message, model=model, url=self._url) from None
            except TimeoutError as error:
                self._drop()
                raise deadline_error(self._model, self._url) from error
            except OSError as error:
                self._drop()
                raise unreachable_error(self._url, error) from error
            except BaseException:
                self._drop()  # an answer may still come, and is not to be taken for that to another question
                raise
        raise unreadable_error(ValueError("the answers become longer each time"))

    def close(self) -> None:
        """End the sessions of all threads."""
        with self._lock:
            for session in self._sessions:
                session.close()

    def _describe(self, session: Session, call: FetchConfig | FetchCounters, timeout_s: float) -> Reply:
        kind = CONFIG if isinstance(call, FetchConfig) else STATISTICS
        slot = SERVED if call.slot is None else call.slot
        try:
            head = json.loads(session.describe(kind, slot, call.model or self._model, timeout_s))
            return ModelConfig.from_json(head) if kind == CONFIG else counters_of(head)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise unreadable_error(error) from error

    def _session(self, size_bytes: int, timeout_s: float) -> Session:
        """This thread's session, with memory of at least so many bytes; not one of the process that this one left."""
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.size_bytes < size_bytes or session.process != os.getpid():
            self._drop()
            session = self._local.session = Session(self._path, size_bytes, timeout_s)
            with self._lock:
                self._sessions.add(session)
        return session

    def _drop(self) -> None:
        session: Session | None = getattr(self._local, "session", None)
        if session is not None:
            session.close()
            self._local.session = None


def _answer(given: Given, call: Infer, begin_ns: int) -> Answer:
    parameters: dict[str, Any] = {RELEASE: given.release} if given.release else {}
    if call.timing:
        times_us = {QUEUE_US: given.queue_us, COMPUTE_US: given.compute_us}
        parameters |= {name: value for name, value in times_us.items() if value >= 0}
    return Answer(given.slot, given.request_id, given.outputs, parameters, (time.perf_counter_ns() - begin_ns) / 1e3)
