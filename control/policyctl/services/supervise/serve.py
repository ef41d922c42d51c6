"""Serve: run a Triton on the repository, or look after somebody else's, and keep it answering.

The supervisor believes only answered inferences. It starts tritonserver,
finishes or reverts what a crash left, certifies every alias on the new server,
and then asks each alias once a second. An alias that stops answering (a dead
stub behind a ready flag) or answers wrongly is loaded again; a server that stops
answering is killed and started again, ever more slowly. `services.supervise.engines` knows
who runs the server, and what of this can be done to it.

A journal that breaks meanwhile stops no service: what it said last counts.

It shares the writer lock with promotions and never waits for it while probing:
a move certifies its alias as well.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
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
from policyctl.errors import PolicyctlError
from policyctl.services.bake.keeper import BakeKeeper
from policyctl.services.control import Control
from policyctl.services.integrity.known_journal import KnownJournal
from policyctl.services.integrity.scrub import Scrubber
from policyctl.services.log import folder
from policyctl.services.logs.server_log import LiveLevels, TritonLog, serving
from policyctl.services.moves.drain import Drains
from policyctl.services.moves.stuck_loads import StuckLoads
from policyctl.services.observed import Observed
from policyctl.services.supervise.announcement import Announcement
from policyctl.services.supervise.bring_up import BringUp
from policyctl.services.supervise.ending import bound_end, ends_in_time
from policyctl.services.supervise.engines import Engine, Launch, alone_in_lane, forget_key, launcher
from policyctl.services.supervise.external import Manner
from policyctl.services.supervise.leftovers import SWEEP_EVERY_S, empty, settle_if_left, sweep, trace_folder
from policyctl.services.supervise.metrics import Metrics
from policyctl.services.supervise.prober import Prober
from policyctl.services.supervise.readiness import lacks
from policyctl.services.supervise.reload import Reloader
from policyctl.settings import Settings
from policyctl.signals import stop_on_signal

LOOK_INTERVAL_S: Final = 0.5
"""How soon an unfinished move, or a silent server, is noticed; the prober's own interval is a setting."""
_STEP_S: Final = 0.05
"""How soon a run that ended is noticed."""
SILENCE_S: Final = 2.0
"""A server of ours that does not answer for so long whether it lives, asked again and again, is silent."""
_QUESTIONS: Final = 2
_LIVE_S: Final = 1.0
"""For one such answer: nothing has to be computed for it, and it waits for no inference."""
PROBE_TIMEOUT_S: Final = 2.0
START_S: Final = 120.0
"""For tritonserver's first answer. One that ends is noticed at once, so only a busy machine or a hang takes it."""
BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
EXIT_S: Final = 30
"""For the interpreter's own end, on a machine that is very busy too."""
UNBEGUN_PAUSE_S: Final = 1.0
"""Between two tries where nothing was started, since Docker is away or a port is taken: to ask costs little."""
STEADY_S: Final = 20.0
"""A server that has lived this long starts again without delay."""


Companion = Callable[[Control, Observed, threading.Event], contextlib.AbstractContextManager[None]]
"""What runs next to the supervisor: begun before the first server is, ended by the event."""


def alone(_control: Control, _observed: Observed, _stop: threading.Event) -> contextlib.AbstractContextManager[None]:
    """No companion: the aliases of the repository are what its own journal says."""
    return contextlib.nullcontext()


@dataclass(slots=True)
class Supervisor:
    """Keeps one server answering until asked to stop; `launch` makes each run of it."""

    control: Control
    launch: Launch
    reading: Reading[Settings]
    verbose: bool
    companion: Companion = alone
    stop: threading.Event = field(default_factory=threading.Event)
    observed: Observed = field(default_factory=Observed)
    _metrics_at: str = ""
    _known: KnownJournal = field(init=False)
    _bring_up: BringUp = field(init=False)
    _engine: Engine | None = None
    _client: Triton | None = None
    _was_ready: bool = False

    def __post_init__(self) -> None:
        self._known = KnownJournal(self.control)
        self._bring_up = BringUp(self.control, self.observed, self.stop)

    def run(self) -> None:
        """Serve until `stop` is set.

        Raises:
            ServerError: The server never came up, or metrics cannot listen.
        """
        with (
            stop_on_signal(self.stop),
            ends_in_time(self.stop, self._end_waits, folder=folder(self.control.repository.control)),
        ):
            endpoints.clear(self.control.repository)
            scrubber = Scrubber(self.control, self.stop)
            reloader = Reloader(self.control, self.reading, self.stop)
            metrics = Metrics(self.control, self._known, self.observed, lambda: scrubber.state, lambda: reloader.counts)
            server = self.control.settings.server
            with (
                exporting(
                    metrics.collect, lacks=self._lacks, host=server.host, port=server.control_metrics_port
                ) as self._metrics_at,
                scrubber.running(),
                BakeKeeper(self.control, self.stop).running(),
                reloader.running(),
                self.companion(self.control, self.observed, self.stop),
            ):
                self._keep_serving()

    def _end_waits(self) -> None:
        """End what the main thread may wait for: an answer of the server, or the server itself."""
        self._bring_up.end_waits()
        if (client := self._client) is not None:
            client.close()
        if (engine := self._engine) is not None and engine.manner.ours:
            engine.stop()

    def _lacks(self) -> str:
        return lacks(self._known.last.state, self.observed.seen())

    def _tell(self, words: str, level: LogLevel = LogLevel.INFO, **fields: Any) -> None:
        self.control.tell(words, level=level, logger="policyctl.serve", **fields)

    def _keep_serving(self) -> None:
        attempt, said = 0, ""
        on_log = TritonLog(self.control, self._known, self.verbose)
        while not self.stop.is_set():
            started, begun, came_up, repeats = time.monotonic(), False, False, False
            engine = self._engine = self.launch(on_log)
            try:
                # What a recording left there goes with the server that wrote it.
                empty(trace_folder(self.control.repository))
                engine.start()
                begun = True
                if engine.manner.ours:
                    self.observed.server_starts()
                self._serve_once(engine)
                came_up = not engine.manner.ours  # to ask again at once costs nothing; to start again may
            except PolicyctlError as error:
                if not self.stop.is_set():
                    if engine.manner.ours and not self._was_ready:
                        raise
                    repeats, said = not begun and error.problem == said, error.problem
                    if not repeats:  # Docker may be away for hours
                        self._tell(f"The server failed: {error.problem}", LogLevel.ERROR, code=error.code)
            finally:
                engine.stop()
            if self.stop.is_set():
                return
            attempt = 0 if came_up or time.monotonic() - started > STEADY_S else attempt + 1
            delay = pause_s(attempt, engine.manner, begun=begun)
            if not repeats:
                self._tell(f"{engine.manner.again}{f' in {delay:.1f} s' if delay else ''}.", LogLevel.WARNING)
            self.stop.wait(delay)

    def _serve_once(self, engine: Engine) -> None:
        if self.stop.is_set():
            return
        engine.wait(timeout_s=START_S)
        if not engine.manner.ours:
            self.observed.server_starts()  # somebody did, and it is here
        endpoint = replace(engine.endpoint(), control_metrics=self._metrics_at)
        client = self._client = self._connect(endpoint)
        levels = LiveLevels(self.control, client)
        announcement = Announcement(self.control, self.observed, endpoint)
        try:
            levels.follow()
            self._bring_up.run(lambda: self._connect(endpoint))
            if self.stop.is_set():
                return
            self._was_ready = True
            announcement.make()
            self.observed.server_is_up(endpoint.pid)
            announcement.say(self._known.state())
            self._watch(engine, client, levels, announcement)
        finally:
            self._client = None
            self.observed.server_is_gone()
            announcement.withdraw()
            client.close()

    def _connect(self, endpoint: Endpoint) -> Triton:
        load_timeout_s = self.control.settings.server.load_timeout_s
        return Triton(endpoint, timeout_s=PROBE_TIMEOUT_S, load_timeout_s=load_timeout_s)

    def _watch(self, engine: Engine, client: Triton, levels: LiveLevels, announcement: Announcement) -> None:
        """Return when the server has to be stopped, or has ended."""
        prober = Prober(self.control, client, self.observed, self._known)
        loads, drains = StuckLoads(self.control, client), Drains(self.control, client, prober.asked)
        sweep_at, probe_at = 0.0, time.monotonic()
        while not self._rest(engine, min(LOOK_INTERVAL_S, probe_at - time.monotonic())):
            if not engine.is_running(self._served()):
                words, exit_code = engine.ended()
                self._tell(words, LogLevel.ERROR, exit_code=exit_code)
                return
            # Before anything else, which would wait for its answers in vain.
            if engine.manner.ours and not self._is_live(engine, client):
                self._tell(engine.manner.silent, LogLevel.ERROR)
                engine.stop(at_once=True)
                return
            if engine.manner.shares_memory and time.monotonic() >= sweep_at:
                sweep(client)
                sweep_at = time.monotonic() + SWEEP_EVERY_S
            announcement.repeat()
            levels.follow()
            client.load_timeout_s = self.control.settings.server.load_timeout_s
            self._recover_if_left(client)
            settle_if_left(self.control, client)
            drains.look(self._known.state())
            if (why := loads.look()) and engine.manner.ours:
                self._tell(f"{why}; it is stopped and started again.", LogLevel.ERROR)
                return
            if time.monotonic() < probe_at:
                continue
            probe_at = time.monotonic() + self.control.settings.prober.interval_s
            if not prober.probe():
                self._tell(engine.manner.silent, LogLevel.ERROR)
                engine.stop(at_once=prober.silent)
                return

    def _rest(self, engine: Engine, longest_s: float) -> bool:
        """Wait, but not past the end of the run; says whether to stop."""
        until = time.monotonic() + longest_s
        while not self.stop.wait(max(0.0, min(_STEP_S, until - time.monotonic()))):
            if time.monotonic() >= until or engine.may_have_ended():
                return False
        return True

    def _is_live(self, engine: Engine, client: Triton) -> bool:
        """Whether the server answers at all; a run that ends meanwhile is not silent but over.

        One question is not enough: this process may have been the one that got no turn.
        """
        until, asked = time.monotonic() + SILENCE_S, 0
        while (left_s := until - time.monotonic()) > 0 or asked < _QUESTIONS:
            timeout_s = min(_LIVE_S, left_s) if left_s > _STEP_S else _LIVE_S
            if client.is_live(timeout_s=timeout_s) or engine.may_have_ended() or self.stop.wait(_STEP_S):
                return True
            asked += 1
        return False

    def _served(self) -> frozenset[str]:
        """The Triton models that should be loaded."""
        return frozenset(served_name(*key) for key in self._known.state().aliases if key not in self.observed.refused)

    def _recover_if_left(self, client: Triton) -> None:
        """Settle a move whose process has gone; what cannot be settled now stops no service."""
        repository = self.control.repository
        if not self._known.state().unfinished or self._known.problem:
            return
        with contextlib.suppress(PolicyctlError):
            if lock.is_held(repository.lock_path):
                return
            # A writer writes the outcome before it lets go, so what is still open now was left open.
            if not self._known.state().unfinished:
                return
            with repository.writer("recovery by the server"):
                self._bring_up.recover(client)


def pause_s(attempt: int, manner: Manner, *, begun: bool) -> float:
    """How long to wait before the next try.

    Args:
        attempt: Failures before it, one after the other.
        manner: Of the engine.
        begun: Whether a server was started at all. Where Docker is away or a port is taken, none was.
    """
    longest = manner.longest_pause_s if begun else UNBEGUN_PAUSE_S
    return min(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)], longest)


def serve(control: Control, reading: Reading[Settings], *, verbose: bool = False, companion: Companion = alone) -> None:
    """Run or look after a Triton on the repository until SIGTERM or SIGINT.

    Args:
        verbose: Pass on Triton's informational log lines as well.
        reading: How the settings came about, to take over what changes in their files.
        companion: What runs next to it.

    Raises:
        UnsupportedError: Something that the server needs is missing here; names all of it.
        BusyError: It is served already.
        ServerError: The server never came up.
        UsageError: The settings contradict the engine.
    """
    api_key = control.settings.server.api_key.get_secret_value() or secrets.token_urlsafe(32)
    with contextlib.ExitStack() as stack:
        is_new = not control.repository.control.is_dir()
        if not is_new:  # first of all: a second server would be refused for its ports, which says little
            stack.enter_context(_alone(control))
        stack.enter_context(alone_in_lane(control))
        speaking = stack.enter_context(serving(control, api_key=api_key))
        launch = launcher(speaking, api_key=api_key)
        # Only now, where nothing was refused: a wrong path must not leave a folder behind.
        control.repository.create()
        if is_new:
            stack.enter_context(_alone(control))
        bound_end(EXIT_S)
        stack.callback(forget_key, control)
        Supervisor(speaking, launch, reading, verbose, companion).run()


def _alone(control: Control) -> contextlib.AbstractContextManager[None]:
    return lock.hold_alone(
        endpoints.supervisor_lock(control.repository),
        doing="policyctl serve",
        taken=f"{control.repository.root} is served already",
        remedy="Use the server that runs (policyctl status), or stop it first.",
    )
