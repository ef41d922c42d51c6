"""Refusals as RFC 9457 problem documents: the error's own words, and never a trace.

``code`` and ``exit_code`` are those of the command line, so a program that
knows the one knows the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi.responses import JSONResponse

from policyctl.domain.json_values import to_json
from policyctl.domain.operations import Failure
from policyctl.errors import BusyError, PolicyctlError, UsageError
from policyctl.services.rollout.operations import KeyReusedError, LimitError

MEDIA_TYPE: Final = "application/problem+json"
_TYPE: Final = "urn:policyctl:problem:"

STATUS: Final[Mapping[str, tuple[int, str]]] = {
    "usage": (422, "Wrong usage"),
    "integrity": (409, "Not as published, or not as the journal says"),
    "gate": (409, "A gate did not pass"),
    "parity": (409, "An artifact does not agree with its policy"),
    "busy": (409, "Somebody else is at work"),
    "moved": (409, "Somebody else was first"),
    "server": (503, "No Triton answers"),
    "move": (409, "The move failed, was aborted, or was taken back"),
    "unsupported": (409, "Not possible on this machine"),
    "error": (500, "An unexpected failure"),
}
"""HTTP status and title of each code of `policyctl.errors`."""


@dataclass(eq=False)
class ProblemError(Exception):
    """A refusal as HTTP knows it.

    Attributes:
        kind: Last part of its type.
        title: The kind of problem, the same each time.
        more: Members that only this kind has.
    """

    status: int
    kind: str
    title: str
    failure: Failure
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def answer(self, *, request_id: str, path: str) -> JSONResponse:
        """The answer."""
        failure = self.failure
        body = {
            "type": _TYPE + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": f"{failure.problem}. {failure.remedy}".removesuffix(". "),
            "instance": path,
            **to_json(failure),
            "request_id": request_id,
            **self.more,
        }
        return JSONResponse(body, self.status, dict(self.headers), MEDIA_TYPE)


def refusal(
    status: int,
    kind: str,
    title: str,
    problem: str,
    remedy: str,
    *,
    of: type[PolicyctlError] = UsageError,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> ProblemError:
    """A refusal to raise."""
    failure = Failure.of(of(problem, remedy=remedy))
    return ProblemError(status, kind, title, failure, headers or {}, more or {})


def not_found(problem: str, remedy: str) -> ProblemError:
    """There is no such thing at this address."""
    return refusal(404, "not-found", "Not found", problem, remedy)


@contextmanager
def missing_is_not_found() -> Iterator[None]:
    """Answer 404 where a service refuses the block because there is no such thing at this address."""
    try:
        yield
    except UsageError as error:
        raise not_found(error.problem, error.remedy) from error


def too_many(problem: str, remedy: str, *, retry_s: int) -> ProblemError:
    """More, or sooner, than is allowed."""
    headers = {"Retry-After": str(retry_s)}
    return refusal(429, "too-many", "Too much at a time", problem, remedy, of=BusyError, headers=headers)


def of_error(error: PolicyctlError) -> ProblemError:
    """What a service refused."""
    if isinstance(error, KeyReusedError):
        return ProblemError(422, "idempotency-key", "The key names another request", Failure.of(error))
    if isinstance(error, LimitError):
        return ProblemError(429, "too-many", "Too much at a time", Failure.of(error), {"Retry-After": "5"})
    return of_failure(Failure.of(error))


def of_failure(failure: Failure, **more: Any) -> ProblemError:
    """What a service refused, or an operation ended with."""
    status, title = STATUS.get(failure.code, STATUS["error"])
    headers = {"Retry-After": "5"} if failure.code in {"busy", "server"} else {}
    return ProblemError(status, failure.code, title, failure, headers, more)


def unexpected(request_id: str) -> ProblemError:
    """A defect of ours. What it was is in the log, not in the answer."""
    error = PolicyctlError(
        "an unexpected failure of the control API",
        remedy=f"Please report it, with what the control API's log says of request {request_id}.",
    )
    return of_failure(Failure.of(error))
