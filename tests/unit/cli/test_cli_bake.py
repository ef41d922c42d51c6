"""`promote --bake` on the command line: options, words, documents and exit codes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bake"))

from bake_world import BakeWorld

from policyctl.services.rollout.promote import promote


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
    done = run("promote", "walker", "1.1.0", "--bake", "60", "--json")
    assert (done.code, done.document["bake"]["verdict"], done.document["bake"]["then"]) == (7, "failed", "rollback")
    assert (world.root / ".policyctl" / done.document["bake"]["evidence"]).is_file()
    assert world.named() == "1.0.0"


def test_a_release_that_stays_ends_with_0_and_says_by_which_figures(world, run) -> None:
    """The source is named."""
    done = run("promote", "walker", "1.1.0", "--bake", "60")
    assert (done.code, world.named()) == (0, "1.1.0")
    assert "Bake: passed after" in done.out
    assert "Triton's statistics" in done.out


def test_too_little_is_as_the_option_says(world, run) -> None:
    """Kept with 0, rolled back with 7; before the switch it is said which, and how to choose."""
    world.requests_per_s = 0
    kept = run("promote", "walker", "1.1.0", "--bake", "60", "--on-inconclusive", "keep")
    assert (kept.code, "1.1.0 stays then (bake.on_inconclusive is keep)" in kept.err) == (0, True)
    done = run("promote", "walker", "1.2.0", "--bake", "60", "--on-inconclusive", "rollback")
    assert (done.code, world.named()) == (7, "1.1.0")
    assert "its bake was inconclusive" in done.err
    warning, switch = done.err.index("WARNING no client asks walker"), done.err.index("Loading walker.candidate")
    assert warning < switch
    assert "1.2.0 is rolled back then" in done.err[warning:switch]
    for option in ("--on-inconclusive keep", "--no-bake"):
        assert option in done.err[warning:switch] and option in done.err[done.err.index("Next:") :]


@pytest.mark.parametrize(("requests_per_s", "warns"), [(4, True), (10, False)])
def test_few_clients_are_said_to_be_too_few_before_the_switch(world, run, requests_per_s: int, warns: bool) -> None:
    """A minute's bake proves less than 1 % of errors by 299 requests; golden questions do not count."""
    world.requests_per_s = requests_per_s
    done = run("promote", "walker", "1.1.0", "--bake", "60")
    assert ("requests came for walker: of so little" in done.err, done.code) == ((True, 7) if warns else (False, 0))


def test_the_lines_of_a_bake_that_rolled_back_agree(world, run) -> None:
    """What is printed of the move ends where the alias is, and the error says the same."""
    world.requests_per_s = 0
    done = run("promote", "walker", "1.1.0", "--bake", "60")
    assert "production of walker: 1.0.0 -> 1.1.0 -> 1.0.0 (slot 2" in done.out
    assert "walker 1.1.0 was rolled back: its bake was inconclusive" in done.err
    asked = run("promote", "walker", "1.1.0", "--bake", "60", "--on-inconclusive", "keep")
    assert "production of walker: 1.0.0 -> 1.1.0 (slot 2" in asked.out


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
