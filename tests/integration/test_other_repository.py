"""A command that is meant for another server's repository is refused by name, on the real Triton."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from embedded import Embedded, embedded, exported

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Embedded]:
    """Another repository than those of the tests, with a model of the same name in production."""
    with embedded(tmp_path_factory.mktemp("theirs")) as found:
        found.publish("1.0.0", 1)
        found.publish("1.1.0", 2)
        found.start()
        found.run("promote", "walker", "1.0.0")
        yield found


@pytest.fixture
def mine(tmp_path) -> Iterator[Embedded]:
    """A repository of walker that nobody serves."""
    with embedded(tmp_path) as found:
        found.publish("1.0.0", 1)
        yield found


@pytest.mark.parametrize(
    "command",
    [
        ("promote", "walker", "1.0.0"),
        ("promote", "walker", "1.0.0", "--dry-run"),
        ("pin", "walker", "1.0.0"),
        ("rollback", "walker", "--to", "1.0.0"),
        ("validate", "walker", "1.0.0", "--gates", "none"),
    ],
)
def test_a_server_of_another_repository_is_refused_by_name(served, mine, command) -> None:
    """Both are named, nothing is written here, and nothing is loaded there."""
    records = len(mine.control.repository.journal.records())
    done = mine.run(*command, "--url", served.endpoint["grpc"], check=False)
    if command[0] == "validate":
        assert (done.returncode, "serves another repository" in " ".join(done.stdout.split())) == (4, True), done.stdout
    else:
        assert done.returncode == 6, done.stderr
        assert f"serves another repository (its id is {served.control.repository.id})" in done.stderr
        assert f"{mine.root} ({mine.control.repository.id})" in done.stderr
        assert len(mine.control.repository.journal.records()) == records
    with served.control.triton() as client:
        assert {s.name for s in client.index()} == {"walker"}


def test_a_server_that_does_not_say_what_it_serves_must_have_the_models_folder(served, mine, monkeypatch) -> None:
    """As a Triton that somebody else started: its listing is held against ours before anything begins."""
    monkeypatch.setattr("policyctl.adapters.triton.Triton.repository", lambda _: "")
    asked = mine.run("promote", "walker", "1.0.0", "--url", served.endpoint["grpc"], check=False)
    assert (asked.returncode, "asks for the key of its repository API" in asked.stderr) == (6, True)
    monkeypatch.setenv("POLICYCTL_SERVER__API_KEY", served.endpoint["api_key"])
    mine.run("publish", str(exported(1)), "--model", "other", "--release", "1.0.0")
    records = len(mine.control.repository.journal.records())
    refused = mine.run("promote", "other", "1.0.0", "--url", served.endpoint["grpc"], check=False)
    assert (refused.returncode, "has no folder other in its model repository" in refused.stderr) == (6, True)
    kinds = [r.kind for r in mine.control.repository.journal.records()[records:]]
    assert "intent" not in kinds


def test_a_copy_of_the_repository_is_no_way_into_its_server(served, tmp_path, monkeypatch) -> None:
    """It has the same id: the candidate that is laid there is not seen by the server, so nothing is loaded."""
    subprocess.run(["cp", "-a", served.root, tmp_path / "copy"], check=True)
    monkeypatch.setenv("POLICYCTL_SERVER__API_KEY", served.endpoint["api_key"])
    with embedded(tmp_path / "unused") as copy:
        copy.root = tmp_path / "copy"
        done = copy.run("promote", "walker", "1.1.0", "--url", served.endpoint["grpc"], check=False)
        assert (done.returncode, "has no folder walker.candidate" in done.stderr) == (7, True), done.stderr
        assert "still serves 1.0.0" in done.stderr
    assert served.answered_by() == "1.0.0"
    with served.control.triton() as client:
        assert {s.name for s in client.index()} == {"walker"}
