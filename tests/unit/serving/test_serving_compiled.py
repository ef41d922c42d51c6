"""What a person is advised who lacks the compiled libraries."""

from __future__ import annotations

from pathlib import Path

from policyctl.serving.compiled import how_to_have_them


def test_a_person_without_a_checkout_is_not_sent_to_make(tmp_path: Path) -> None:
    """Make is named where its sources are; elsewhere, the wheel that has the libraries."""
    sources = tmp_path / "build.py"
    assert "make" not in how_to_have_them(sources)
    assert "wheel" in how_to_have_them(sources)
    sources.touch()
    assert how_to_have_them(sources) == "make native (needs g++)"
