"""The Triton that somebody else runs on this repository: waited for, brought up, and known again after a restart.

It cannot be started again; it can only be found again. Triton does not report when
it was started. But a model's count of answers only grows while it is loaded, and
a server in explicit mode has nothing loaded when it comes up: so a run is over
where no alias of ours is loaded any more, or a count is less than it was.
Whatever we load ourselves changes the journal, and while a writer is at work
nothing is concluded.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from policyctl.adapters import lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.domain.choices import Engine as Kind
from policyctl.errors import PolicyctlError, ServerError, UsageError
from policyctl.services.control import Control
from policyctl.serving.logs import OnLog

_LOOK_S: Final = 0.2
_WAIT_S: Final = 2.0
_ASKING_PAUSE_S: Final = 5.0
"""The longest pause between two tries: to ask costs little."""


@dataclass(frozen=True, slots=True)
class Manner:
    """What the supervisor may do with an engine, and its words for it.

    Attributes:
        ours: A server that never came up is an error: nobody else will mend it.
        shares_memory: Clients' shared memory is in the ``/dev/shm`` of this process.
        silent: Said when it does not answer.
        ended: Said when the run is over; ``{why}`` is where the engine knows more.
        again: Said before another try, with a time after it.
        longest_pause_s: Between two starts.
        patience: How many times as long as the wheel's server it may take to answer.
    """

    kind: Kind
    ours: bool
    shares_memory: bool
    silent: str
    ended: str
    again: str
    longest_pause_s: float = 30.0
    patience: int = 1


EXTERNAL: Final = Manner(
    Kind.EXTERNAL,
    ours=False,
    shares_memory=False,
    silent="The server does not answer. policyctl did not start it: the person who runs it has to start it again.",
    ended="Somebody restarted the server: what was loaded is not loaded any more.",
    again="Asking for it again",
    longest_pause_s=_ASKING_PAUSE_S,
)


@dataclass(slots=True)
class ExternalEngine:
    """One run of a Triton that somebody else runs on this repository."""

    control: Control
    manner: Manner = EXTERNAL
    server_id: str = field(default_factory=lambda: secrets.token_hex(8))
    _client: Triton | None = None
    _seen: Mapping[tuple[str, int], int] = field(default_factory=dict)
    _journal_bytes: int = -1

    def start(self) -> None:
        """Nothing is started."""

    def wait(self, timeout_s: float) -> None:
        """Return once it answers; nobody is kept waiting long, for the supervisor asks again."""
        self._client = Triton(self.endpoint(), timeout_s=_WAIT_S)
        deadline = time.monotonic() + min(timeout_s, _WAIT_S)
        while not self._client.is_live():
            if time.monotonic() >= deadline:
                raise ServerError(
                    f"no Triton answers at {self.control.settings.server.url}",
                    remedy="Start it, on this repository, with --model-control-mode=explicit.",
                )
            time.sleep(_LOOK_S)

    def is_running(self, served: Collection[str]) -> bool:
        """Whether what was loaded is loaded still; a silent server is the prober's to judge."""
        repository = self.control.repository
        if self._client is None or lock.is_held(repository.lock_path):
            return True
        try:
            size = repository.journal.size_bytes()
            now = {(each.name, each.slot): each.succeeded for each in self._client.counters()}
        except PolicyctlError:
            return True
        before = {key: count for key, count in self._seen.items() if key[0] in served}
        if lock.is_held(repository.lock_path):
            return True  # a move began meanwhile
        if served and not any(name in served for name, _ in now):
            return False
        if size == self._journal_bytes and any(now.get(key, count) < count for key, count in before.items()):
            return False
        self._seen, self._journal_bytes = now, size
        return True

    def may_have_ended(self) -> bool:
        """Nobody reports the end of somebody else's server."""
        return False

    def ended(self) -> tuple[str, int | None]:
        """How the run ended."""
        return self.manner.ended, None

    def stop(self, *, at_once: bool = False) -> None:
        """It is not ours to stop."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def endpoint(self) -> Endpoint:
        """Where it answers, as the settings say."""
        server = self.control.settings.server
        return Endpoint(
            http=server.http_url,
            grpc=server.url,
            metrics=server.metrics_url,
            api_key=server.api_key.get_secret_value(),
            server_id=self.server_id,
            supervisor_pid=os.getpid(),
            engine=self.manner.kind.value,
        )


def external(control: Control) -> Callable[[OnLog], ExternalEngine]:
    """Check that the settings say where it is; the result makes one run at a time."""
    if not control.settings.server.url:
        raise UsageError(
            "server.engine is external, and server.url does not say where that Triton is",
            remedy="Set POLICYCTL_SERVER__URL to its gRPC HOST:PORT.",
        )
    return lambda _on_log: ExternalEngine(control)
