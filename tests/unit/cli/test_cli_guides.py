"""The guides about integrity and lifecycle: every command in them runs, and does what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from world import World

from policyctl.services.rollout.promote import promote

DOCS = Path(__file__).parents[3] / "docs"


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks that are commands of ours."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("policyctl ")]


@pytest.fixture
def busy_world(world: World, monkeypatch) -> World:
    """A repository as the guides imagine it: three releases, two of which were in production."""
    for number, release in enumerate(("1.2.0", "1.3.0", "1.4.0")):
        world.publish(release, number)
    for release in ("1.3.0", "1.4.0"):
        promote(world.control, model="walker", release=release, alias="production")
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    return world


@pytest.mark.parametrize("page", ["integrity.md", "lifecycle.md"])
def test_every_command_of_a_guide_runs(busy_world, run, parse, tmp_path: Path, page: str) -> None:
    """From top to bottom, on one repository; what needs a registry elsewhere is at least understood."""
    found = commands(page)
    assert len(found) > 8
    for line in found:
        arguments = shlex.split(line)[1:]
        if "registry.example.com" in line:
            parse(arguments)
            continue
        done = run(*(each.replace("s3://policies", f"file://{tmp_path}/store") for each in arguments))
        assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
    assert busy_world.answered() == "1.4.0"


def test_the_reports_of_the_guide_are_written(busy_world, run, tmp_path) -> None:
    """Under the names that the page gives them."""
    for line in commands("integrity.md"):
        if "--report" in line:
            run(*shlex.split(line)[1:])
    assert {p.suffix for p in tmp_path.glob("integrity.*")} == {".html", ".json", ".md"}


def test_gc_and_repair_and_transfer_speak_documents(busy_world, run, tmp_path, monkeypatch) -> None:
    """One JSON document each on stdout; the exit code says what could not be rebuilt."""
    monkeypatch.delenv("COLUMNS")
    planned = run("gc", "--days", "0", "--rollbacks", "1", "--newest", "1", "--json")
    assert [r["release"] for r in planned.document["collect"]] == ["1.2.0"]
    assert planned.document["deleted"] is False
    sent = run("release", "export", "walker", "1.2.0", tmp_path / "out", "--json").document
    done = run("gc", "--days", "0", "--rollbacks", "1", "--newest", "1", "--yes", "--json").document
    assert done["deleted"] is True
    assert run("promote", "walker", "1.2.0").code == 2
    back = run("release", "import", tmp_path / "out", "--digest", sent["digest"], "--json").document
    assert (back["done"], back["slot"], back["digest"]) == ("restored", 1, sent["digest"])
    refused = run("release", "import", tmp_path / "out", "--digest", "sha256:" + "0" * 64, "--json")
    assert (refused.code, refused.document["error"]["code"]) == (3, "integrity")
    path = busy_world.root / "walker" / "1" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    left = run("repair", "--json")
    assert left.code == 3
    assert [s["possible"] for s in left.document["steps"]] == [False]
    mended = run("repair", "--from", tmp_path / "out", "--json")
    assert (mended.code, mended.document["left"]) == (0, [])
    assert run("verify").code == 0
    assert {"collected", "restored", "repaired"} <= {r["kind"] for r in run("history", "--json").document}
    shown = run("history").out
    assert "its files were removed from slot 1" in shown


def test_every_command_of_the_fleet_guide_is_understood(parse) -> None:
    """The tests of fleets run them; they need nodes."""
    found = commands("fleet.md")
    assert len(found) > 6
    for line in found:
        parse(shlex.split(line)[1:])
