"""Ask a move that another process carries out to stop before its switch."""

from __future__ import annotations

from policyctl.adapters.repository import Repository
from policyctl.domain.moves import Move


def request_abort(repository: Repository, move: Move) -> None:
    """Ask whoever runs `move` to stop before its switch."""
    repository.write(repository.control / "abort", move.id.encode())


def abort_requested(repository: Repository, move: Move) -> bool:
    """Whether somebody asked `move` to stop."""
    try:
        return (repository.control / "abort").read_text() == move.id
    except FileNotFoundError:
        return False


def clear_abort(repository: Repository) -> None:
    """Forget any request to stop."""
    (repository.control / "abort").unlink(missing_ok=True)
