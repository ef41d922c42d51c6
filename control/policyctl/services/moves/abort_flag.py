"""Ask a move that another process carries out to stop before its switch."""

from __future__ import annotations

from contextlib import suppress

from policyctl.adapters.repository import Repository
from policyctl.domain.moves import Move
from policyctl.plain_files import NOTE_BYTES, read_plain


def request_abort(repository: Repository, move: Move) -> None:
    """Ask the process that runs `move` to stop before its switch."""
    repository.write(repository.control / "abort", move.id.encode())


def abort_requested(repository: Repository, move: Move) -> bool:
    """Whether somebody asked `move` to stop."""
    try:
        return read_plain(repository.control / "abort", most_bytes=NOTE_BYTES) == move.id.encode()
    except OSError:
        return False  # what is there is no request of ours


def clear_abort(repository: Repository) -> None:
    """Forget any request to stop; anything else, as a folder, is left where it is."""
    with suppress(IsADirectoryError):
        (repository.control / "abort").unlink(missing_ok=True)
