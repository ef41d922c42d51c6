"""Every way this project refuses, with what to do about it.

An error carries the problem (which names the value and the expectation), the
remedy (the next thing a person can type or change) and the exit code of the
command line. Only the command line turns one into text; everything below just
raises.

The docstring of each class that has a code says what the code means and, in
its second paragraph, what to do: docs/troubleshooting.md is made of them.

Exit codes are part of the interface:

==== ==========================================================
code meaning
==== ==========================================================
0    done
1    an unexpected failure: a defect, please report it
2    wrong usage: an argument, a file or a setting
3    integrity: a file is not what its manifest says
4    a gate or parity did not pass
5    busy: somebody else holds the writer lock, or has moved the alias meanwhile
6    the server cannot be reached, or did not answer in time
7    the move failed or was aborted, or its bake took the release back
8    not possible on this machine (a missing library or device)
130  interrupted; what is served then is said on stderr
==== ==========================================================
"""

from __future__ import annotations

from typing import ClassVar, Final

_LONGEST: Final = 300


class PolicyctlError(Exception):
    """A refusal with a remedy; where nothing more is known, a defect of policyctl.

    Please report a defect: the command, what it printed, and what `policyctl logs` shows of that time.

    Args:
        problem: What is wrong: names the value and the expectation.
        remedy: What to do next; empty where there is nothing to add.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


class UsageError(PolicyctlError):
    """An argument, a file or a setting that cannot be used as it is.

    Nothing was changed. Correct what the message names, and try again. `policyctl COMMAND --help` has examples;
    `policyctl config validate` names each wrong setting with its file and line. A file that you may not read or
    write is such a refusal, too: the message names its owner.
    """

    exit_code = 2
    code = "usage"


class IntegrityError(PolicyctlError):
    """A file that is not what its manifest, or the journal, says.

    Nothing was changed, and what is served goes on. `policyctl verify` names every such file. Restore the file
    from a copy, or let `policyctl repair` rebuild it: docs/integrity.md, docs/lifecycle.md#repair.
    """

    exit_code = 3
    code = "integrity"


class UnreadableError(IntegrityError):
    """A file of a release that this process may not read: nothing says that it is not as published."""

    exit_code = 2
    code = "usage"


class GateError(PolicyctlError):
    """A gate that failed, errored, or could not tell.

    The incumbent is served on. The evidence of the verdict says what the gate measured, and against which limit.
    A gate that could not tell needs more time, or a quieter machine: docs/gates.md.
    """

    exit_code = 4
    code = "gate"


class ParityError(GateError):
    """An artifact whose outputs differ from the policy's beyond tolerance.

    That artifact was not written. The message names the output and the difference. Export another format, or
    look for what the runtime computes differently: docs/export.md#parity.
    """

    code = "parity"


class BusyError(PolicyctlError):
    """Another writer is at work on this repository; or the control API takes no more requests now.

    The message names which. Wait until it is done, or let the command wait: `policyctl promote --wait`. The lock
    ends with its process, so there is never a file to remove. The control API says in `Retry-After` when to try again.
    """

    exit_code = 5
    code = "busy"


class MovedError(BusyError):
    """An alias, or a move, is not the one that the request was decided for.

    Nothing was changed by this request, and the same request will be refused again. Look at what is served now
    (`policyctl status`) and who moved it (`policyctl history`), then decide again.
    """

    code = "moved"


class ServerError(PolicyctlError):
    """The server cannot be reached, refused, or did not answer in time.

    See whether it runs and what it says: `policyctl status`, `policyctl logs`. Start it with `policyctl serve`;
    `policyctl doctor` says what this machine lacks for that. The runbook: docs/runbooks/server.md.
    """

    exit_code = 6
    code = "server"


class MoveError(PolicyctlError):
    """A move that failed or was aborted, or a release that its bake took back.

    The message says what is served now: as a rule the incumbent. Where bringing that back failed too, the next
    command or the server settles the move. `policyctl history` has the outcome, `policyctl logs` what the server said
    meanwhile. The audit of the control API (`/v1/audit`) says who aborted a move by it.
    The runbook: docs/runbooks/moves.md.
    """

    exit_code = 7
    code = "move"


class UnsupportedError(PolicyctlError):
    """Something that this machine, this format or this algorithm cannot do.

    The message names what is missing. An extra is installed as docs/install.md#extras says. For a device or a
    library of the system, `policyctl doctor` and `policyctl hardware` say what this machine has.
    """

    exit_code = 8
    code = "unsupported"


def connection_text(reason: object) -> str:
    """Why a connection failed, without addresses of Python's objects, and without bytes that are no text.

    Args:
        reason: The error of a library, which may wrap another's; or its text.
    """
    found = _wrapped(reason) if isinstance(reason, BaseException) else []
    if any(type(each).__name__ == "BadStatusLine" for each in found):
        return "what answers there speaks no HTTP, as Triton's gRPC port does not"
    if any(isinstance(each, TimeoutError) or "Timeout" in type(each).__name__ for each in found):
        return "it did not answer in time"
    text = next((each.strerror for each in found if isinstance(each, OSError) and each.strerror), str(reason))
    closed = "Socket closed" in text or "reset by peer" in text  # which of the two is the network's choice
    if "Failed parsing HTTP/2" in text or ("failed to connect" in text and closed):
        return "what answers there speaks no gRPC, as Triton's HTTP port does not"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _wrapped(error: BaseException) -> list[BaseException]:
    """`error`, and every error that it was made of, each once."""
    found = [error]
    for outer in found:
        inner = (*outer.args, getattr(outer, "reason", None), outer.__cause__, outer.__context__)
        found += [each for each in inner if isinstance(each, BaseException) and all(each is not f for f in found)]
    return found


def first_line(error: Exception) -> str:
    """What a library said first: as a rule what went wrong, and then where."""
    return _lines(error)[0][:_LONGEST]


def last_line(error: Exception) -> str:
    """What a library said last: TorchScript and OpenVINO put what went wrong at the end, TorchScript after its kind."""
    return _lines(error)[-1].removeprefix(f"{type(error).__name__}:").strip()[:_LONGEST]


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
