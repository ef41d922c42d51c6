"""A client that asks nobody, and exports with cards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from world import CONTRACT, write_export

from policyctl.domain.artifacts import CARD_FILE
from policyctl.errors import UsageError
from policyctl.services.cards.draft import draft


class FakeClient:
    """Answers for the alias, as `PolicyClient` does; every second action is at its bound."""

    releases = ("1.0.0",)
    max_batch = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self._asked = 0

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None: ...

    def served(self) -> SimpleNamespace:
        return SimpleNamespace(contract=CONTRACT, max_batch=self.max_batch)

    def act_batch(self, observations: np.ndarray, *, episodes: Sequence[object] = ()) -> SimpleNamespace:
        self._asked += 1
        if 0 < self.max_batch < len(observations):
            raise UsageError(f"a batch of {len(observations)} observations")
        value = np.full((len(observations), 1), self._asked % 2, dtype=np.float32)
        return SimpleNamespace(value=value, release=self.releases[self._asked % len(self.releases)], releases=())


def write_card_export(folder: Path, seed: int) -> Path:
    """An export with the card that export would write, and a comment of its author."""
    write_export(folder, seed)
    (folder / CARD_FILE).unlink()
    text = draft(folder)
    (folder / CARD_FILE).write_text(text.replace("# An SPDX", "# We chose this.\nlicence: MIT\n# An SPDX"))
    return folder
