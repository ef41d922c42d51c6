"""Let the embedded Triton answer clients on this machine by the local lane: a library compiled with the native backend.

The library is preloaded into the server where `server.lane` asks for it, and
only there (docs/local-lane.md): ``backend_openvino/src/lane*.cpp``.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from policyctl import lane, warm
from policyctl.errors import UnsupportedError
from policyctl.serving.compiled import how_to_have_them

LIBRARY: Final = "libtriton_lane.so"
_BESIDE: Final = Path(__file__).resolve().parent / LIBRARY
_PROBE_S: Final = 1.0


def find(library: Path = _BESIDE) -> Path | None:
    """The library; None where nobody built it."""
    return library if library.is_file() else None


def prepare(url: str) -> str:
    """Make the folder of the usual lane, and see that the server can have its socket.

    Returns:
        The path of the socket.

    Raises:
        UsageError: `url` names no socket.
        UnsupportedError: The library is not built, the folder is not safe, or another server listens there.
    """
    path = lane.path_of(url)
    if find() is None:
        raise UnsupportedError(
            "server.lane is set, and the library of the local lane is not built",
            remedy=f"For it: {how_to_have_them()}. Or leave the setting out.",
        )
    if lane.is_usual(url):
        Path(warm.folder()).mkdir(mode=0o700, exist_ok=True)
        if not warm.is_ours():
            raise UnsupportedError(
                f"the folder {warm.folder()} is not this user's alone, so the local lane cannot be in it",
                remedy="Remove the folder, or name a socket in another one: server.lane local:/path.",
            )
    try:
        lane.connect(path, _PROBE_S).close()
    except OSError:
        return path
    raise UnsupportedError(
        f"another server listens at {path}",
        remedy="Stop it, or give this one another socket: server.lane local:/path.",
    )


def variables(path: str) -> dict[str, str]:
    """What the library reads in the environment of the server."""
    return {"TRITON_LANE_SOCKET": path}


def forget(path: str) -> None:
    """Remove the socket of a server that was killed; one where somebody listens stays."""
    try:
        lane.connect(path, _PROBE_S).close()
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            Path(path).unlink()
    except OSError:
        return
