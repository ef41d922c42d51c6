"""Refusals as RFC 9457 problem documents: the error's own words, and never a trace.

``code`` and ``exit_code`` are those of the command line, so a program that
knows the one knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi.responses import JSONResponse

from policyctl.domain.operations import Failure
from policyctl.errors import BusyError, PolicyctlError, UsageError
from policyctl.services.operations import KeyReusedError, LimitError

MEDIA_TYPE: Final = "application/problem+json"
_TYPE: Final = "urn:policyctl:problem:"

STATUS: Final[Mapping[str, int]] = {
    "usage": 422,
    "integrity": 409,
    "gate": 409,
    "parity": 409,
    "busy": 409,
    "server": 503,
    "move": 409,
    "aborted": 409,
    "unsupported": 409,
}
"""The HTTP status of each code of `policyctl.errors`."""

_TITLES: Final[Mapping[str, str]] = {
    "usage": "Wrong usage",
    "integrity": "Not as published, or not as the journal says",
    "gate": "A gate did not pass",
    "parity": "An artifact does not agree with its policy",
    "busy": "Somebody else is at work",
    "server": "No Triton answers",
    "move": "The move failed, the incumbent was kept",
    "aborted": "The move was aborted",
    "unsupported": "Not possible on this machine",
    "error": "An unexpected failure",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal, before it is an answer.

    Attributes:
        status: HTTP status.
        kind: Last part of its type.
        title: The kind of problem, the same each time.
        failure: Code, exit code, problem and remedy.
        headers: Of the answer.
        more: Members of its own.
    """

    status: int
    kind: str
    title: str
    failure: Failure
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def answer(self, *, request_id: str, path: str) -> JSONResponse:
        """The answer."""
        found = self.failure
        body = {
            "type": _TYPE + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": f"{found.problem}. {found.remedy}".removesuffix(". "),
            "instance": path,
            "code": found.code,
            "exit_code": found.exit_code,
            "problem": found.problem,
            "remedy": found.remedy,
            "request_id": request_id,
            **self.more,
        }
        return JSONResponse(body, self.status, dict(self.headers), MEDIA_TYPE)


class ProblemError(Exception):
    """A refusal that HTTP knows and the services do not."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.failure.problem)
        self.problem = problem


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
    return ProblemError(Problem(status, kind, title, failure, headers or {}, more or {}))


def not_found(problem: str, remedy: str) -> ProblemError:
    """There is no such thing at this address."""
    return refusal(404, "not-found", "Not found", problem, remedy)


def too_many(problem: str, remedy: str, *, retry_s: int) -> ProblemError:
    """More, or sooner, than is allowed."""
    headers = {"Retry-After": str(retry_s)}
    return refusal(429, "too-many", "Too much at a time", problem, remedy, of=BusyError, headers=headers)


def of_error(error: PolicyctlError, **more: Any) -> Problem:
    """What a service refused."""
    if isinstance(error, KeyReusedError):
        return Problem(422, "idempotency-key", "The key names another request", Failure.of(error))
    if isinstance(error, LimitError):
        return Problem(429, "too-many", "Too much at a time", Failure.of(error), {"Retry-After": "5"})
    return of_failure(Failure.of(error), **more)


def of_failure(failure: Failure, **more: Any) -> Problem:
    """What a service refused, or an operation ended with."""
    status = STATUS.get(failure.code, 500)
    headers = {"Retry-After": "5"} if failure.code in {"busy", "server"} else {}
    title = _TITLES.get(failure.code, _TITLES["error"])
    return Problem(status, failure.code, title, failure, headers, more)


def unexpected(request_id: str) -> Problem:
    """A defect of ours. What it was is in the log, not in the answer."""
    error = PolicyctlError(
        "an unexpected failure of the control API",
        remedy=f"Please report it, with what the control API's log says of request {request_id}.",
    )
    return of_failure(Failure.of(error))
