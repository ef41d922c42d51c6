"""Serve: run a Triton on the repository, or look after somebody else's, and keep it answering.

The supervisor believes only answered inferences. It starts tritonserver,
finishes or reverts what a crash left, certifies every alias on the new server,
and then asks each alias once a second. An alias that stops answering (a dead
stub behind a ready flag) or answers wrongly is loaded anew; a server that stops
answering is killed and started again, ever more slowly. `services.engines` knows
who runs the server, and what of this can be done to it.

A journal that breaks meanwhile stops no service: what it said last counts.

It shares the writer lock with promotions and never waits for it while probing:
whoever moves an alias certifies it as well.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters import lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.exporter import exporting
from policyctl.adapters.triton import Triton
from policyctl.config.reading import Reading
from policyctl.domain.log_event import LogLevel
from policyctl.domain.names import served_name
from policyctl.errors import BusyError, PolicyctlError, ServerError, UnsupportedError
from policyctl.services import client_memory
from policyctl.services.aliases import WrongAnswersError, load_alias
from policyctl.services.bake_keeper import BakeKeeper
from policyctl.services.control import Control
from policyctl.services.engine import Engine, Launch
from policyctl.services.engines import launcher
from policyctl.services.known_journal import KnownJournal
from policyctl.services.log_serve import LiveLevels, TritonLog, serving
from policyctl.services.metrics import Metrics
from policyctl.services.moves import recover
from policyctl.services.observed import Observed
from policyctl.services.prober import Prober
from policyctl.services.record import empty, settle_if_left, trace_folder
from policyctl.services.reload import Reloader
from policyctl.services.scrub import Scrubber
from policyctl.services.signals import stop_on_signal
from policyctl.settings import Settings

LOOK_INTERVAL_S: Final = 1.0
"""How soon an unfinished move, or a server that ended, is noticed; the prober's own interval is a setting."""
PROBE_TIMEOUT_S: Final = 2.0
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S: Final = 20.0
"""A server that has lived this long starts again without delay."""


@dataclass(slots=True)
class Supervisor:
    """Keeps one server answering until told to stop; `launch` makes each run of it."""

    control: Control
    launch: Launch
    stop: threading.Event = field(default_factory=threading.Event)
    verbose: bool = False
    reloader: Reloader | None = None
    observed: Observed = field(default_factory=Observed)
    _metrics_at: str = ""
    _known: KnownJournal = field(init=False)
    _was_ready: bool = False
    _last_words: str = ""

    def __post_init__(self) -> None:
        self._known = KnownJournal(self.control)

    def run(self) -> None:
        """Serve until `stop` is set.

        Raises:
            ServerError: The server never came up, or metrics cannot listen.
        """
        with stop_on_signal(self.stop):
            endpoints.clear(self.control.repository)
            scrubber = Scrubber(self.control, self.stop)
            metrics = Metrics(self.control, self._known, self.observed, scrub=lambda: scrubber.state)
            if (reloader := self.reloader) is not None:
                metrics.reloads = lambda: reloader.counts
            server = self.control.settings.server
            with (
                exporting(metrics.collect, host=server.host, port=server.control_metrics_port) as self._metrics_at,
                scrubber.running(),
                BakeKeeper(self.control, self.stop).running(),
                self._reloading(),
            ):
                self._keep_serving()

    def _reloading(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.reloader is None else self.reloader.running()

    def _tell(self, words: str, level: LogLevel = LogLevel.INFO, **fields: Any) -> None:
        self.control.tell(words, level=level, logger="policyctl.serve", **fields)

    def _keep_serving(self) -> None:
        attempt = 0
        on_log = TritonLog(self.control, self._known, self.verbose)
        while not self.stop.is_set():
            started, came_up = time.monotonic(), False
            engine = self.launch(on_log)
            try:
                # What a recording left there goes with the server that wrote it.
                empty(trace_folder(self.control.repository))
                if engine.manner.ours:
                    self.observed.server_starts()
                engine.start()
                self._serve_once(engine)
                came_up = not engine.manner.ours  # to ask again at once costs nothing; to start again may
            except (ServerError, UnsupportedError) as error:
                if engine.manner.ours and not self._was_ready:
                    raise
                self._tell(f"The server failed: {error.problem}", LogLevel.ERROR, code=error.code)
            finally:
                engine.stop()
            if self.stop.is_set():
                return
            attempt = 0 if came_up or time.monotonic() - started > STEADY_S else attempt + 1
            delay = min(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)], engine.manner.longest_pause_s)
            self._tell(f"{engine.manner.again} in {delay:.1f} s.", LogLevel.WARNING)
            self.stop.wait(delay)

    def _serve_once(self, engine: Engine) -> None:
        engine.wait(timeout_s=30.0)
        if not engine.manner.ours:
            self.observed.server_starts()  # somebody did, and it is here
        endpoint = replace(engine.endpoint(), control_metrics=self._metrics_at)
        client = Triton(endpoint, timeout_s=PROBE_TIMEOUT_S, load_timeout_s=self.control.settings.server.load_timeout_s)
        levels = LiveLevels(self.control, client)
        try:
            levels.follow()
            self._bring_up(client)
            endpoints.write(self.control.repository, endpoint)
            self._was_ready = True
            self.observed.server_is_up(endpoint.pid)
            self._announce(endpoint)
            self._watch(engine, client, levels)
        finally:
            self.observed.server_is_gone()
            endpoints.clear(self.control.repository)
            client.close()

    def _watch(self, engine: Engine, client: Triton, levels: LiveLevels) -> None:
        """Return when the server has to be stopped, or has ended."""
        prober = Prober(self.control, client, self.observed, self._known)
        sweep_at, probe_at = 0.0, time.monotonic()
        while not self.stop.wait(min(LOOK_INTERVAL_S, max(0.0, probe_at - time.monotonic()))):
            if not engine.is_running(self._served()):
                words, exit_code = engine.ended()
                self._tell(words, LogLevel.ERROR, exit_code=exit_code)
                return
            if engine.manner.shares_memory and time.monotonic() >= sweep_at:
                client_memory.sweep(client)
                sweep_at = time.monotonic() + client_memory.EVERY_S
            levels.follow()
            client.load_timeout_s = self.control.settings.server.load_timeout_s
            self._recover_if_left(client)
            settle_if_left(self.control, client)
            if time.monotonic() < probe_at:
                continue
            probe_at = time.monotonic() + self.control.settings.prober.interval_s
            if not prober.probe():
                self._tell(engine.manner.silent, LogLevel.ERROR)
                return

    def _served(self) -> frozenset[str]:
        """The Triton models that should be loaded."""
        return frozenset(served_name(*key) for key in self._known.state().aliases if key not in self.observed.refused)

    def _bring_up(self, client: Triton) -> None:
        with self.control.repository.writer("start of the server", wait_s=120.0):
            self._recover(client)
            for key, state in sorted(self.control.repository.journal.state().aliases.items()):
                try:
                    load_alias(self.control, client, key, state)
                except PolicyctlError as error:
                    self.observed.refused[key] = state.placement
                    if isinstance(error, WrongAnswersError):
                        self.observed.withdrawn[key] = state.placement
                    words = f"REFUSED {served_name(*key)}: {error.problem}. {error.remedy}"
                    self._tell(words, LogLevel.ERROR, model=key[0], alias=key[1], code=error.code)
                    with contextlib.suppress(ServerError):
                        client.unload(served_name(*key))

    def _announce(self, endpoint: Endpoint) -> None:
        refused = len(self.observed.refused)
        served = len(self._known.state().aliases) - refused
        self._tell(
            f"Ready: {served} served, {refused} refused."
            f" HTTP {endpoint.http}, gRPC {endpoint.grpc}, metrics {endpoint.metrics} (Triton)"
            f" and {endpoint.control_metrics} (policyctl). Ctrl-C stops.",
            server=endpoint.server_id,
        )

    def _recover_if_left(self, client: Triton) -> None:
        repository = self.control.repository
        if self._known.state().unfinished is None or self._known.problem or lock.is_held(repository.lock_path):
            return
        # A writer writes the outcome before it lets go, so what is still open now was left open.
        if self._known.state().unfinished is None:
            return
        with contextlib.suppress(BusyError), repository.writer("recovery by the server"):
            self._recover(client)

    def _recover(self, client: Triton) -> None:
        """Settle what a crash left; what cannot be settled does not keep the rest from being served."""
        try:
            found = recover(self.control, client)
            words = found.words if found else ""
        except PolicyctlError as error:
            words = f"An unfinished move cannot be settled: {error.problem}"
        if words and words != self._last_words:
            self._tell(words, LogLevel.WARNING)
        self._last_words = words


def serve(control: Control, *, verbose: bool = False, reading: Reading[Settings] | None = None) -> None:
    """Run or look after a Triton on the repository until SIGTERM or SIGINT.

    Args:
        control: The control plane; ``server.engine`` says who runs the server.
        verbose: Pass on Triton's informational log lines as well.
        reading: How the settings came about, to take over what changes in their files; None: nothing is.

    Raises:
        UnsupportedError: Something that the server needs is missing here; names all of it.
        BusyError: It is served already.
        ServerError: The server never came up.
        UsageError: The settings contradict the engine.
    """
    api_key = control.settings.server.api_key.get_secret_value() or secrets.token_urlsafe(32)
    repository = control.repository
    repository.create()
    # Before anything is looked at: whoever runs it twice would else be told of ports only.
    alone = lock.hold_alone(
        endpoints.supervisor_lock(repository),
        doing="policyctl serve",
        taken=f"{repository.root} is served already",
        remedy="Use the server that runs (policyctl status), or stop it first.",
    )
    with alone, serving(control, api_key=api_key) as speaking:
        supervisor = Supervisor(speaking, launcher(speaking, api_key=api_key), verbose=verbose)
        if reading is not None:
            supervisor.reloader = Reloader(speaking, reading, supervisor.stop)
        supervisor.run()
