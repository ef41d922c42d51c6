"""Let the embedded Triton answer clients on this machine by the local lane: a library compiled with the native backend.

The library is preloaded into the server where `server.lane` asks for it, and
only there (docs/local-lane.md): ``backend_openvino/src/lane*.cpp``.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from policyctl import lane, warm
from policyctl.errors import UnsupportedError, UsageError
from policyctl.serving.compiled import how_to_have_them

LIBRARY: Final = "libtriton_lane.so"
_BESIDE: Final = Path(__file__).resolve().parent / LIBRARY
_PROBE_S: Final = 1.0


def find(library: Path = _BESIDE) -> Path | None:
    """The library; None where nobody built it."""
    return library if library.is_file() else None


def place(url: str) -> str:
    """Make the folder of the usual lane, and see that a socket can be made in the folder of any.

    Returns:
        The path of the socket.

    Raises:
        UsageError: `url` names no socket, or one in a folder that is missing or cannot be written.
        UnsupportedError: The library is not built, or the folder of the usual lane is not safe or cannot be made.
    """
    path = lane.path_of(url)
    if find() is None:
        raise UnsupportedError(
            "server.lane is set, and the library of the local lane is not built",
            remedy=f"For it: {how_to_have_them()}. Or leave the setting out.",
        )
    if lane.is_usual(url):
        try:
            Path(warm.folder()).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UnsupportedError(
                f"the folder {warm.folder()} of the local lane cannot be made: {error.strerror}",
                remedy="Make the folder above it (XDG_RUNTIME_DIR), or name a socket: server.lane local:/path.",
            ) from error
        if not warm.is_ours():
            raise UnsupportedError(
                f"the folder {warm.folder()} is not this user's alone, so the local lane cannot be in it",
                remedy="Remove the folder, or name a socket in another one: server.lane local:/path.",
            )
    folder = Path(path).parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise UsageError(
            f"the local lane cannot be at {path}: this user cannot write to the folder {folder}",
            remedy="Make the folder, or name a socket in another one: server.lane local:/path.",
        )
    return path


def lock_path(path: str) -> Path:
    """What a server locks as long as the socket at `path` is its own, also while its Triton is started again."""
    return Path(f"{path}.lock")


def prepare(url: str) -> str:
    """See that the server can have the socket of its lane; only an old one of this user is ever replaced.

    Returns:
        The path of the socket.

    Raises:
        UsageError: As `place`; or something else than a socket of this user is there.
        UnsupportedError: As `place`; or another server listens there, or may do so.
    """
    path = place(url)
    if not _is_replaceable(path):
        raise UsageError(
            f"the local lane cannot be at {path}: something else than a socket of this user is there",
            remedy="Move it away, or name another path: server.lane local:/path.",
        )
    try:
        lane.connect(path, _PROBE_S).close()
        problem = f"another server listens at {path}"
    except (FileNotFoundError, ConnectionRefusedError):
        return path
    except OSError as error:
        problem = f"another server may listen at {path}: {error.strerror or error}"
    raise UnsupportedError(problem, remedy="Stop it, or give this one another socket: server.lane local:/path.")


def variables(path: str) -> dict[str, str]:
    """What the library reads in the environment of the server."""
    return {"TRITON_LANE_SOCKET": path}


def forget(path: str) -> None:
    """Remove the socket of a server that was killed; one where somebody listens stays, and so does anything else."""
    try:
        lane.connect(path, _PROBE_S).close()
    except ConnectionRefusedError:  # as a plain file says as well
        if _is_replaceable(path):
            with contextlib.suppress(OSError):
                Path(path).unlink()
    except OSError:
        return


def _is_replaceable(path: str) -> bool:
    """Whether nothing is there, or a socket of this user."""
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return stat.S_ISSOCK(state.st_mode) and state.st_uid == os.geteuid()
