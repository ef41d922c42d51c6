"""Every way this project refuses, with what to do about it.

An error carries the problem (which names the value and the expectation), the
remedy (the next thing a person can type or change) and the exit code of the
command line. Only the command line turns one into text; everything below just
raises.

Exit codes are part of the interface:

==== ==========================================================
code meaning
==== ==========================================================
0    done
1    an unexpected failure: a defect, please report it
2    wrong usage: an argument, a file or a setting
3    integrity: a file is not what its manifest says
4    a gate or parity did not pass
5    busy: somebody else holds the writer lock
6    the server cannot be reached, or did not answer in time
7    the move failed and the incumbent was kept
8    not possible on this machine (a missing library or device)
==== ==========================================================
"""

from __future__ import annotations

from typing import ClassVar


class PolicyctlError(Exception):
    """A refusal with a remedy.

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
    """An argument, a file or a setting that cannot be used as it is."""

    exit_code = 2
    code = "usage"


class IntegrityError(PolicyctlError):
    """A file that is not what its manifest, or the journal, says."""

    exit_code = 3
    code = "integrity"


class GateError(PolicyctlError):
    """A gate that failed, errored, or could not tell."""

    exit_code = 4
    code = "gate"


class ParityError(GateError):
    """An artifact whose outputs differ from the policy's beyond tolerance."""

    code = "parity"


class BusyError(PolicyctlError):
    """Another writer is at work on this repository."""

    exit_code = 5
    code = "busy"


class ServerError(PolicyctlError):
    """The server cannot be reached, refused, or did not answer in time."""

    exit_code = 6
    code = "server"


class MoveError(PolicyctlError):
    """A promotion or rollback that failed; the incumbent was kept."""

    exit_code = 7
    code = "move"


class UnsupportedError(PolicyctlError):
    """Something that this machine, this format or this algorithm cannot do."""

    exit_code = 8
    code = "unsupported"
