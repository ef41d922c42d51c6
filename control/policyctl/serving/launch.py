"""Become tritonserver, tied to the life of the process that started it.

Run as a script between the parent and the server: it asks the kernel to kill
this process when its parent dies, then replaces itself with the server. That
is done here and not in `subprocess`'s ``preexec_fn``, because Python code
between fork and exec can deadlock in a parent that has threads.

SIGKILL, not SIGTERM: who would wait for an orderly exit is already dead, and
an orphan that lingers holds the ports against the next server.

The kernel watches the *thread* that started this process, so the parent must
start it from a thread that lives as long as the server does.

It also raises the limit on open files as far as this user may.

Usage: launch.py PARENT_PID PROGRAM [ARGUMENT ...]
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_OPEN_FILES = 65536


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the program; does not return."""
    parent, program = int(arguments[0]), arguments[1]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # A parent that died before the call above would never be noticed.
    if os.getppid() != parent:
        sys.exit(1)
    # Each connection takes one: the usual soft limit of 1,024 lets idle clients keep all others out.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    os.execv(program, arguments[1:])  # noqa: S606 - replaced on purpose: the same process id


if __name__ == "__main__":
    main(sys.argv[1:])
