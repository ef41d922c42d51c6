"""Bring a server that was just started to what the journal says.

First a move that a crash left open is settled, then every alias is verified,
loaded and certified. Aliases are loaded side by side, for most of what a load
takes is the backend's computing; Triton takes two loads at a time. What cannot
be loaded is refused by name and keeps nothing else from being served.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final

from policyctl.adapters.triton import Triton
from policyctl.domain.log_event import LogLevel
from policyctl.domain.names import served_name
from policyctl.domain.probes import AliasKey
from policyctl.domain.state import AliasState
from policyctl.errors import BusyError, PolicyctlError, ServerError
from policyctl.services.control import Control
from policyctl.services.moves.aliases import WrongAnswersError, load_alias
from policyctl.services.moves.recovery import recover_all
from policyctl.services.observed import Observed

_AT_ONCE: Final = 2
"""More loads than that wait in Triton 2.51, by gRPC and by HTTP."""
_WRITER_WAIT_S: Final = 120.0
_LOOK_S: Final = 1.0
_LOGGER: Final = "policyctl.serve"


@dataclass(slots=True)
class BringUp:
    """Loads what the journal names on one server after the other.

    Attributes:
        stop: Once it is set, nothing more is begun.
    """

    control: Control
    observed: Observed
    stop: threading.Event
    _clients: tuple[Triton, ...] = ()
    _last_words: str = ""

    def run(self, connect: Callable[[], Triton]) -> None:
        """Settle, load and certify everything.

        Args:
            connect: Makes a client of the server; a client is for one thread.

        Raises:
            BusyError: Another writer did not finish in time.
        """
        with self._writer():
            aliases = self.control.repository.journal.state().aliases
            count = max(1, min(_AT_ONCE, len(os.sched_getaffinity(0)), len(aliases)))
            self._clients = tuple(connect() for _ in range(count))
            try:
                self.recover(self._clients[0])
                self._load_all()
            finally:
                self.end_waits()

    def end_waits(self) -> None:
        """End every wait for an answer of the server; from any thread."""
        for client in self._clients:
            client.close()

    def recover(self, client: Triton) -> None:
        """Settle what a crash left; what cannot be settled does not keep the rest from being served."""
        try:
            words = " ".join(recover_all(self.control, client))
        except PolicyctlError as error:
            words = f"What a crash left cannot be settled: {error.problem}"
        if words and words != self._last_words:
            self.control.tell(words, level=LogLevel.WARNING, logger=_LOGGER)
        self._last_words = words

    def _load_all(self) -> None:
        aliases = sorted(self.control.repository.journal.state().aliases.items())
        count = len(self._clients)
        with ThreadPoolExecutor(count, thread_name_prefix="load") as pool:
            # A thread begins without what is bound here, the operation that its lines belong to.
            work = [
                pool.submit(copy_context().run, self._load, client, aliases[start::count])
                for start, client in enumerate(self._clients)
            ]
            for each in work:
                each.result()

    def _load(self, client: Triton, aliases: Sequence[tuple[AliasKey, AliasState]]) -> None:
        for key, state in aliases:
            if self.stop.is_set():
                return
            try:
                load_alias(self.control, client, key, state, observed=self.observed)
            except PolicyctlError as error:
                if self.stop.is_set():
                    return
                self._refuse(client, key, state, error)

    def _refuse(self, client: Triton, key: AliasKey, state: AliasState, error: PolicyctlError) -> None:
        self.observed.refused[key] = state.placement
        if isinstance(error, WrongAnswersError):
            self.observed.withdrawn[key] = state.placement
        words = f"REFUSED {served_name(*key)}: {error.problem}. {error.remedy}"
        self.control.tell(words, level=LogLevel.ERROR, logger=_LOGGER, model=key[0], alias=key[1], code=error.code)
        with contextlib.suppress(ServerError):
            client.unload(served_name(*key))

    @contextlib.contextmanager
    def _writer(self) -> Iterator[None]:
        """Hold the writer lock. Wait for its holder, but only until this server is asked to stop."""
        deadline = time.monotonic() + _WRITER_WAIT_S
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self.control.repository.writer("start of the server", wait_s=_LOOK_S))
                    break
                except BusyError:
                    if self.stop.is_set() or time.monotonic() > deadline:
                        raise
            yield
