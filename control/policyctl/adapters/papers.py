"""The papers of a collected release: what stays when its artifacts go."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from policyctl.adapters.repository import Repository
from policyctl.domain.artifacts import CARD_FILE, CONTRACT_FILE, MANIFEST_FILE, PARITY_FILE

PAPERS: Final = (MANIFEST_FILE, CONTRACT_FILE, CARD_FILE, PARITY_FILE)


FOLDER: Final = "collected"


def papers(repository: Repository, model: str, release: str) -> Path:
    """Where the papers of a collected release are."""
    return repository.control / FOLDER / model / release
