"""What the blocking and the asyncio client have in common: all but the waiting."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any, Generic, TypeVar, Unpack

from policyctl.client import trace_context
from policyctl.client.agreement import Agreement
from policyctl.client.episode import Episode
from policyctl.client.episode_options import EpisodeOptions, Wanted
from policyctl.client.errors import DeadlineError, UnreachableError, deadline_error
from policyctl.client.exchange import Question, exchange, learn
from policyctl.client.observation import Observation
from policyctl.client.options import (
    check_deadline,
    check_requires,
    check_urls,
    check_wire,
    new_request_id,
    triton_model,
)
from policyctl.client.served import Memory
from policyctl.client.servers import Server, Servers
from policyctl.client.turn import turn
from policyctl.domain.names import PRODUCTION
from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError, UsageError

TransportT = TypeVar("TransportT")
ActionT = TypeVar("ActionT")
ServedT = TypeVar("ServedT")


class BaseClient(ABC, Generic[TransportT, ActionT, ServedT]):
    """Ask one alias of one policy for actions.

    Nothing is retried that failed: a control loop is better served by an
    error now than by an action later. (`exchange` explains what is asked again
    when a promotion changes the contract; it happens within the deadline.)

    Args:
        model: The policy's name.
        url: ``host:port`` of the protocol's endpoint, without a scheme; or several, of servers that serve the same
            policy; ``local:`` for the local lane of a server of this user on this machine, or ``local:/path``.
            The client stays with one, and asks the next where that has no answer (`Servers`).
        protocol: ``grpc`` or ``http``.
        alias: Which of its aliases; or the number of a pinned release, ``1.2.0``.
        requires: Which releases this client accepts: ``^1.2``, ``~1.2.0`` or
            ``1.2.3``; None for any. It is held against the release that is
            served, and against every one that answers, also after a switch.
        deadline_s: What each call may take in all, unless it says otherwise.
            It bounds the wait here and travels with the request, so that a
            server whose queue policy allows it drops what nobody waits for.
        check_bounds: Also refuse floats outside the contract's bounds; integers outside always are refused.
        shared_memory: Pass tensors through shared memory, where client and
            server are on one machine; over gRPC alone.
        transport: Makes the calls instead of Triton's client; for tests.

    Raises:
        UsageError: A name, the url, the range, the protocol or the deadline is not
            allowed, or shared memory is requested over HTTP.
        UnsupportedError: By the first call: the server cannot open the shared
            memory, because it is on another machine or in another container.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str | Sequence[str],
        protocol: str | Protocol = Protocol.GRPC,
        alias: str = PRODUCTION,
        requires: str | None = None,
        deadline_s: float = 1.0,
        check_bounds: bool = False,
        shared_memory: bool = False,
        transport: TransportT | None = None,
    ) -> None:
        self._model = triton_model(model, alias)
        self._deadline_s = check_deadline(deadline_s)
        self._check_bounds = check_bounds
        self._closed = False
        wire = check_wire(protocol, shared_memory=shared_memory)
        required, agreement = check_requires(requires), Agreement()
        self._servers = Servers(
            [
                Server(
                    each,
                    transport or self._connect(wire, each, shared_memory=shared_memory),
                    Memory(required, agreement),
                )
                for each in check_urls(url)
            ]
        )

    def act(
        self,
        observation: Observation,
        *,
        deterministic: bool = True,
        seed: int | None = None,
        request_id: str | None = None,
        timing: bool = False,
        outputs: Sequence[str] = (),
        deadline_s: float | None = None,
        traceparent: str | None = None,
        episode: Episode[ActionT] | None = None,
    ) -> ActionT:
        """One action for one observation.

        Args:
            observation: Of the contract's shape, without a batch dimension;
                by name where the policy takes more than one.
            deterministic: The policy's best action; else one drawn here.
            seed: Reproduces a drawn action; None takes fresh entropy.
            request_id: What to call the request; a fresh one if None.
            timing: Also report time inside the server. Where the answer does
                not say it, this reads the model's counters before and after:
                more calls, and a mean over all that was served in between
                (`ServerTiming.requests`).
            outputs: More outputs to fetch, for example ``value``.
            deadline_s: Instead of the client's, seconds.
            traceparent: The W3C trace context to send; None sends that of
                OpenTelemetry's active span, if it is sampled.
            episode: Whose next step it is; `Episode.act` gives it.

        Raises:
            UsageError: The observation does not fit the contract, or `traceparent` has another form.
            DeadlineError: No answer in time.
            UnknownReleaseError: An answer that cannot be attributed.
            IncompatibleReleaseError: A release that this client does not accept
                is served, or answered; there is no action.
            EpisodeInterruptedError: The episode began with a release that does not answer any more.
            ServerError: Any other way in which there is no action.
        """
        question = Question(
            observation=observation,
            batched=False,
            request_id=request_id or new_request_id(),
            deterministic=deterministic,
            seed=seed,
            check_bounds=self._check_bounds,
            timing=timing,
            outputs=tuple(outputs),
            traceparent=trace_context.chosen(traceparent),
            episodes=() if episode is None else (episode,),
        )
        return self._answer(question, deadline_s)

    def act_batch(
        self,
        observations: Observation,
        *,
        deterministic: bool = True,
        seed: int | None = None,
        request_id: str | None = None,
        timing: bool = False,
        outputs: Sequence[str] = (),
        deadline_s: float | None = None,
        traceparent: str | None = None,
        episodes: Sequence[Episode[ActionT]] = (),
    ) -> ActionT:
        """One action for each of n observations, in one request, by one release.

        As `act`, but `observations` and the action's `value` and `outputs`
        have n rows, and `episodes` are one a row. Rows may be reset apart.
        Episodes that began with different releases are asked of each in turn (`Action.releases`).
        """
        question = Question(
            observation=observations,
            batched=True,
            request_id=request_id or new_request_id(),
            deterministic=deterministic,
            seed=seed,
            check_bounds=self._check_bounds,
            timing=timing,
            outputs=tuple(outputs),
            traceparent=trace_context.chosen(traceparent),
            episodes=episodes,
        )
        return self._answer(question, deadline_s)

    def episode(self, **options: Unpack[Wanted]) -> Episode[ActionT]:
        """One episode, which carries the memory of a policy from step to step; for any policy.

        Args:
            options: What it does by itself: `EpisodeOptions` explains each.

        Raises:
            UsageError: An unknown option, or a value that means nothing.
        """
        return Episode(self, EpisodeOptions.of(options))

    def served(self, *, deadline_s: float | None = None) -> ServedT:
        """Ask what is served now: release, contract, digest.

        Raises:
            IncompatibleReleaseError: This client does not accept it.
            ServerError: The server does not say.
        """
        steps = self._servers.ask(lambda memory: learn(self._model, memory))
        served: ServedT = self._carry_out(steps, deadline_s)
        return served

    def _answer(self, question: Question, deadline_s: float | None) -> ActionT:
        if question.episodes:
            steps = turn(self._model, self._servers.ask, question)
        elif (only := self._servers.only) is not None:  # as `ask` does: most clients have one server and no episode
            steps = exchange(self._model, only.memory, question)
        else:
            steps = self._servers.ask(lambda memory: exchange(self._model, memory, question))
        action: ActionT = self._carry_out(steps, deadline_s)
        return action

    @abstractmethod
    def _connect(self, protocol: Protocol, url: str, *, shared_memory: bool) -> TransportT:
        """The transport of a protocol to one server; each loads libraries that the other does not need."""

    @abstractmethod
    def _carry_out(self, steps: Generator[Any, Any, Any], deadline_s: float | None, more_s: float = 0.0) -> Any:
        """Perform every step of `steps` within the deadline, and `more_s` seconds."""

    def _deadline(self, deadline_s: float | None, more_s: float = 0.0) -> Deadline[TransportT]:
        if self._closed:
            raise closed_error()
        limit_s = self._deadline_s if deadline_s is None else check_deadline(deadline_s)
        return Deadline(limit_s + more_s, self._model, self._servers.only or self._servers.chosen)


def closed_error() -> UsageError:
    """A client that is closed is asked, or was closed while it was."""
    return UsageError("this client is closed", remedy="Make a new one, or ask within its `with` block.")


class Deadline(Generic[TransportT]):
    """The time that all calls of one question have together.

    Args:
        limit_s: From now on.
        model: The Triton model, for messages.
        server: The one that is asked; what is known of it is forgotten where it cannot be reached.
    """

    __slots__ = ("_limit_s", "_model", "_until", "server")

    def __init__(self, limit_s: float, model: str, server: Server[TransportT]) -> None:
        self._limit_s, self._model, self.server = limit_s, model, server
        self._until = time.monotonic() + limit_s

    def remaining_s(self) -> float:
        """What is left of it; 0 where it is over."""
        return max(self._until - time.monotonic(), 0.0)

    def left_s(self) -> float:
        """What is left of it.

        Raises:
            DeadlineError: Nothing.
        """
        if (left_s := self._until - time.monotonic()) <= 0:
            raise deadline_error(self._model, self.server.url)
        return left_s

    def missed(self) -> ServerError:
        """The error for a caller who waited until it was over."""
        return self.explain(deadline_error(self._model, self.server.url))

    def explain(self, error: ServerError) -> ServerError:
        """The error for the caller of a call that failed: one about the deadline names all of it."""
        if isinstance(error, UnreachableError):
            self.server.memory.forget()
        if isinstance(error, DeadlineError):  # transports know only what was left
            return DeadlineError(f"{error.problem} of {self._limit_s:g} s", remedy=error.remedy)
        return error
