"""An environment without settings, and a folder without files."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("POLICYCTL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
