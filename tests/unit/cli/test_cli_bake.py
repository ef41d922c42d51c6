"""`promote --bake` on the command line: options, words, documents and exit codes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bake"))

from bake_world import BakeWorld

from policyctl.services.promote import promote


@pytest.fixture
def world(tmp_path, monkeypatch) -> BakeWorld:
    """1.0.0 in production, asked by clients."""
    found = BakeWorld(tmp_path, monkeypatch)
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(found.root))
    return found


def test_a_release_that_is_rolled_back_ends_with_7_and_the_evidence(world, run) -> None:
    """In words, and as one document that holds the verdict."""
    world.failing["1.1.0"] = 0.5
    done = run("promote", "walker", "1.1.0", "--bake", "60")
    assert done.code == 7
    assert "was rolled back: its bake failed" in done.err
    assert "Next: Look at the evidence: .policyctl/evidence/walker/1.1.0/" in done.err
    told = run("promote", "walker", "1.1.0", "--bake", "60", "--json")
    assert (told.code, told.document["bake"]["verdict"], told.document["bake"]["then"]) == (7, "failed", "rollback")
    assert (world.root / ".policyctl" / told.document["bake"]["evidence"]).is_file()
    assert world.named() == "1.0.0"


def test_a_release_that_stays_ends_with_0_and_says_by_which_figures(world, run) -> None:
    """The source is named."""
    done = run("promote", "walker", "1.1.0", "--bake", "60")
    assert (done.code, world.named()) == (0, "1.1.0")
    assert "Bake: passed after" in done.out
    assert "Triton's statistics" in done.out


def test_too_little_is_as_the_option_says(world, run) -> None:
    """Kept with 0, rolled back with 7."""
    world.idle = True
    assert run("promote", "walker", "1.1.0", "--bake", "60", "--on-inconclusive", "keep").code == 0
    done = run("promote", "walker", "1.2.0", "--bake", "60", "--on-inconclusive", "rollback")
    assert (done.code, world.named()) == (7, "1.1.0")
    assert "its bake inconclusive" in done.err


def test_somebody_else_ends_it_with_5(world, run) -> None:
    """The release is not served any more, and not by this command's doing."""
    world.meanwhile[2] = lambda: promote(world.control, model="walker", release="1.2.0", alias="production")
    done = run("promote", "walker", "1.1.0", "--bake", "60")
    assert (done.code, world.named()) == (5, "1.2.0")
    assert "took precedence" in done.err


def test_the_options_exclude_each_other_and_the_setting_is_a_default(world, run, monkeypatch) -> None:
    """--no-bake overrules the setting."""
    assert run("promote", "walker", "1.1.0", "--bake", "60", "--no-bake").code == 2
    monkeypatch.setenv("POLICYCTL_BAKE__FOR_S", "60")
    assert run("promote", "walker", "1.1.0", "--json").document["bake"]["verdict"] == "passed"
    assert run("promote", "walker", "1.2.0", "--no-bake", "--json").document["bake"] is None
    assert "bake: watch walker" in run("promote", "walker", "1.1.0", "--dry-run").out
