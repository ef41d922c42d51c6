"""Own the shared memory of one server, and clear away what a dead one left.

Triton and its stubs talk through files in ``/dev/shm`` and a server that is
killed leaves them there, some megabytes at a time, until the machine restarts.
So each server gets its prefix, made of its repository and a claim: a
file that carries the same prefix and is locked for as long as any process of
that server lives.

The server's backend directory, which is links alone, carries the prefix too.

The lock (`claims`) is inherited by the server and its stubs, so it falls exactly
when the last user of the memory is gone.

Invariant: nothing without our prefix is ever removed, and nothing whose claim
is held.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl import claims
from policyctl.claims import FOLDER
from policyctl.errors import UnsupportedError

_CLAIM: Final = "claim"
_PREFIX: Final = re.compile(r"policyctl-[0-9a-f]{12}-[0-9a-f]{8}-")


@dataclass(frozen=True, slots=True)
class Claim:
    """A prefix of ours in ``/dev/shm``, held while `descriptor` is open anywhere.

    Attributes:
        prefix: What every region's name begins with.
        descriptor: The locked claim; pass it on to the server's process.
        folder: Where regions are.
    """

    prefix: str
    descriptor: int
    folder: Path = FOLDER

    def close(self) -> None:
        """Let go of this process's hold; the server's own hold stays."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)

    def remove(self) -> tuple[str, ...]:
        """Remove every region, and the claim last. Call it when the server is gone."""
        return remove(self.folder, self.prefix)


def prefix_base(repository: Path) -> str:
    """What the prefixes of all servers of `repository` begin with."""
    digest = hashlib.sha256(os.fsencode(repository.resolve())).hexdigest()
    return f"policyctl-{digest[:12]}-"


def claim(repository: Path, *, folder: Path = FOLDER) -> Claim:
    """Take a fresh prefix for a server of `repository`.

    Raises:
        UnsupportedError: `folder` cannot be written.
    """
    try:
        while True:
            prefix = f"{prefix_base(repository)}{secrets.token_hex(4)}-"
            if (descriptor := claims.make(folder / (prefix + _CLAIM))) is not None:
                return Claim(prefix, descriptor, folder)
    except OSError as error:
        raise UnsupportedError(
            f"shared memory: {folder} cannot be written ({error.strerror})",
            remedy="Mount a tmpfs there (docker run --shm-size=256m), or mind its permissions.",
        ) from error


def cleanup_stale(repository: Path, *, folder: Path = FOLDER, also: Path | None = None) -> tuple[str, ...]:
    """Remove what crashed servers of `repository` left behind.

    A claim that somebody holds, or that belongs to another user, is left alone.

    Args:
        repository: Whose servers.
        folder: Where their claims are.
        also: Another folder that may hold something of theirs.

    Returns:
        The names that were removed.
    """
    removed: list[str] = []
    with claims.orphans(folder, prefix_base(repository), suffix=_CLAIM) as stale:
        for prefix in (name.removesuffix(_CLAIM) for name in stale):
            if _PREFIX.fullmatch(prefix) is not None:
                removed += remove(also, prefix) if also not in {None, folder} else ()
                removed += remove(folder, prefix)
    return tuple(removed)


def remove(folder: Path, prefix: str) -> tuple[str, ...]:
    """Remove all that carries `prefix`; the claim goes last, so a cut-short removal is found again."""
    names = claims.names(folder, prefix)
    ordered = [n for n in names if n != prefix + _CLAIM] + [n for n in names if n == prefix + _CLAIM]
    removed = []
    for name in ordered:
        with contextlib.suppress(OSError):
            if stat.S_ISDIR((folder / name).lstat().st_mode):
                shutil.rmtree(folder / name)
            else:
                (folder / name).unlink()
            removed.append(name)
    return tuple(removed)
