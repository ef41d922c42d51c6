"""The ways in which a question to a server ends without an action.

All are `ServerError`: a control loop that falls back to a safe action catches
that one. The kinds are for those who can do better than that, and for the
exchange itself, which learns from a refusal that a contract has moved.
"""

from __future__ import annotations

from policyctl.errors import PolicyctlError, ServerError, connection_text


class DeadlineError(ServerError):
    """No answer within the deadline; a late one is thrown away.

    Take the safe action of your application. Then find out why answers are late: docs/runbooks/latency.md.
    """

    code = "deadline"


class UnreachableError(ServerError):
    """No connection to a server, or one that broke.

    Check the address and the protocol: gRPC and HTTP have a port each. A client with several servers asks the
    next one by itself: docs/client.md#several-servers.
    """

    code = "unreachable"


class NotServedError(ServerError):
    """The server does not serve this model, or not this slot of it.

    `policyctl status` shows what is served under which name. Promote a release, or ask for another alias.
    """

    code = "not_served"


class OverloadedError(ServerError):
    """As many requests wait at the server as it takes.

    Ask less often, or let the server answer more: docs/tune.md. The runbook: docs/runbooks/server.md.
    """

    code = "overloaded"


class RefusedError(ServerError):
    """The server says that the request itself is wrong for the model.

    The message names the input. `policyctl card show` prints the contract of a release.
    """

    code = "refused"


class UnknownReleaseError(ServerError):
    """A slot answered that no release is known for, or none with its contract.

    Do not act on the answer. Something else than policyctl configures that server: `policyctl verify` says what.
    """

    code = "unknown_release"


class IncompatibleReleaseError(ServerError):
    """The release that is served is not one of those that the client requires.

    Roll the alias back, or let the client require the release that is served: docs/versions.md#what-a-client-requires.
    """

    code = "incompatible_release"


class StaleError(ServerError):
    """A server of a fleet answered by an older generation of the alias than this client has seen.

    Ask another node, or this one once it has read the store: `policyctl status` names nodes that have not. Where the
    fleet has a new store, make a new client: docs/fleet.md.
    """

    code = "stale"


class EpisodeInterruptedError(ServerError):
    """Another release is served than the one that an episode began with, and its memory is of no use there.

    Begin a new episode. A promotion that drains lets episodes end on their release: docs/versions.md#drain.
    """

    code = "episode_interrupted"


def translate(status: str, message: str, *, model: str, url: str) -> PolicyctlError:
    """The error that a status of the server, or of the wire, stands for.

    Args:
        status: A gRPC status name (with or without ``StatusCode.``) or an HTTP
            status number, as text.
        message: What came with it.
        model: The Triton model that was asked.
        url: Where.
    """
    status = status.removeprefix("StatusCode.")
    if status == "DEADLINE_EXCEEDED" or "Request timeout expired" in message:
        return deadline_error(model, url)
    if status in {"NOT_FOUND", "404"} or "unknown model" in message or "is not at ready state" in message:
        return NotServedError(
            f"{model} is not served at {url}: {message}",
            remedy="Check the model's name and the alias; see what is served: policyctl status",
        )
    if "Exceeds maximum queue size" in message:
        return OverloadedError(
            f"{model} at {url} is full: {message}",
            remedy="Send fewer requests at once, or raise the queue size or instance count of the model.",
        )
    if status in {"INVALID_ARGUMENT", "400"}:
        return RefusedError(f"{model} at {url} refused the request: {message}")
    if status == "UNAVAILABLE":
        return unreachable_error(url, message)
    return ServerError(
        f"{model} at {url} failed with {status}: {message}", remedy="Read the server's log for the cause."
    )


def deadline_error(model: str, url: str) -> DeadlineError:
    """No answer in time."""
    return DeadlineError(
        f"{model} at {url} did not answer within the deadline",
        remedy="Give a longer deadline_s, or look at the server: its queue, its load, whether it is stopped.",
    )


def unreachable_error(url: str, reason: object) -> UnreachableError:
    """No connection."""
    return UnreachableError(
        f"no server can be reached at {url}: {connection_text(reason)}",
        remedy="Check the address and the protocol (gRPC and HTTP have a port each), and that it runs.",
    )


def unreadable_error(error: Exception) -> ServerError:
    """An answer that is not as Triton writes it."""
    return ServerError(
        f"the server's answer cannot be read: {error!r}",
        remedy="Do not act on it. Look for a proxy that changes answers.",
    )
