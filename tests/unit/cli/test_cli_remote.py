"""The command line by URL: the same words, the same documents and the same exit codes as on a repository here."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from api_world import ApiWorld
from world import WIDER

from policyctl.adapters import endpoint
from policyctl.cli.call import BY_URL
from policyctl.domain.tokens import Scope


@pytest.fixture
def remote(served_world, monkeypatch) -> Iterator[ApiWorld]:
    """A control API over a real socket; the command line here knows its address and a token, and no repository."""
    api = ApiWorld(served_world)
    with api.listening() as url:
        monkeypatch.setenv("POLICYCTL_API__URL", url)
        monkeypatch.setenv("POLICYCTL_API__TOKEN", api.secrets[Scope.PROMOTE])
        monkeypatch.setenv("POLICYCTL_API__TIMEOUT_S", "10")
        yield api
    api.api.operations.close(timeout_s=300)


def _alike(text: str) -> str:
    """Without what differs each time: ids, times, ages and durations, and how wide these are."""
    varying = r"[0-9a-f]{16}|\d{4}-\d\d-\d\d[T ][0-9:.+Z]+|\d+(\.\d+)? (ms|s|min)( ago)?|: \d+\.\d+"
    return re.sub(r"[ ─━]+", " ", re.sub(varying, "#", text))


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("status",), 0),
        (("status", "walker", "--json"), 0),
        (("status", "--check"), 0),
        (("status", "nobody"), 2),
        (("history",), 0),
        (("history", "walker", "--limit", "3", "--json"), 0),
        (("history", "nobody", "--json"), 2),
        (("promote", "walker", "1.1.0", "--dry-run"), 0),
        (("promote", "walker", "1.1.0", "--dry-run", "--json"), 0),
        (("promote", "walker", "1.0.0"), 0),
        (("promote", "walker", "9.9.9", "--json"), 2),
        (("promote", "nobody", "1.0.0"), 2),
        (("rollback", "walker"), 2),
        (("rollback", "walker", "--to", "1.0.0", "--json"), 0),
        (("abort", "walker"), 2),
        (("promote", "walker", "1.1.0", "--bake", "60", "--dry-run"), 0),
        (("promote", "walker", "1.0.0", "--no-bake"), 0),
        (("promote", "walker", "1.1.0", "--bake", "5", "--no-bake"), 2),
        (("pin", "walker", "^1.1", "--dry-run"), 0),
        (("pin", "walker", "production", "--dry-run", "--json"), 0),
        (("pin", "walker", "9.9.9"), 2),
        (("unpin", "walker", "1.1.0"), 2),
        (("unserve", "walker", "--alias", "staging"), 2),
        (("unserve", "walker", "--alias", "production", "--dry-run", "--json"), 0),
    ],
)
def test_a_command_by_url_says_what_it_says_here(remote, run, monkeypatch, command, code) -> None:
    """What it prints, what it says, and its exit code."""
    if command[0] == "unserve":
        monkeypatch.setenv("POLICYCTL_API__TOKEN", remote.secrets[Scope.ADMIN])
    there = run(*command)
    here = run("--api", "", *command, "--repository", remote.world.root)
    assert (there.code, _alike(there.out), _alike(there.err)) == (code, _alike(here.out), _alike(here.err))


def test_a_move_by_url_says_what_it_says_here(remote, run) -> None:
    """Promoted there, rolled back, and the same once more here: the same lines, but for times and ids."""
    words = {}
    for where, before in (("first", ()), ("there", ()), ("here", ("--api", ""))):
        repository = ("--repository", remote.world.root) if before else ()
        moved = run(*before, "promote", "walker", "1.1.0", "-m", "better", *repository)
        back = run(*before, "rollback", "walker", "--json", *repository)
        words[where] = [(r.code, _alike(r.out), _alike(r.err)) for r in (moved, back)]
    assert words["there"] == words["here"], "the first of all ran the gates as well"
    assert [code for code, *_ in words["there"]] == [0, 0]
    assert remote.world.named() == "1.0.0"
    actors = [r.actor for r in remote.world.control.repository.journal.records() if r.kind == "intent"]
    assert [a.startswith("token:my-promote@") for a in actors] == [False, True, True, True, True, False, False]


def test_a_breaking_release_by_url_is_refused_and_promoted_as_here(remote, run) -> None:
    """Exit code 4 without --breaking, by dry run too; with it, the same words there and here."""
    remote.world.publish("2.0.0", 3, contract=WIDER)
    for command, code in (
        (("promote", "walker", "2.0.0", "--dry-run"), 4),
        (("promote", "walker", "2.0.0"), 4),
        (("promote", "walker", "2.0.0", "--breaking", "--dry-run"), 0),
    ):
        there = run(*command)
        here = run("--api", "", *command, "--repository", remote.world.root)
        assert (there.code, _alike(there.out), _alike(there.err)) == (code, _alike(here.out), _alike(here.err))
    moved, back = run("promote", "walker", "2.0.0", "--breaking", "--json"), run("rollback", "walker")
    assert (moved.code, moved.document["breaking"], back.code) == (0, True, 0)
    assert "Its contract breaks that of 2.0.0" in back.out
    assert remote.world.named() == "1.0.0"


def test_validate_shows_what_a_release_would_break(served_world, run) -> None:
    """Next to its gates, in words and in the document. No gate judges it, and no exit code changes."""
    served_world.publish("2.0.0", 3, contract=WIDER)
    found = run("validate", "walker", "2.0.0", "--gates", "none", "--json")
    assert (found.code, found.document["verdict"], found.document["contract"]["breaking"]) == (0, "passed", True)
    assert "takes --breaking" in found.err
    same = run("validate", "walker", "1.1.0", "--gates", "none", "--json")
    assert same.document["contract"] == {"alias": "production", "from": "1.0.0", "breaking": False, "differences": []}


def test_pins_and_their_end_by_url_say_what_they_say_here(remote, run, monkeypatch) -> None:
    """Pinned, unpinned, taken out of service and promoted again: there, and the same once more here."""
    monkeypatch.setenv("POLICYCTL_API__TOKEN", remote.secrets[Scope.ADMIN])
    commands = (
        ("pin", "walker", "1.1.0", "-m", "robot 7"),
        ("unpin", "walker", "1.1.0", "--json"),
        ("unserve", "walker", "--alias", "production", "-m", "retired"),
        ("promote", "walker", "1.0.0", "--json"),
    )
    words = {}
    for where, before in (("first", ()), ("there", ()), ("here", ("--api", ""))):
        repository = ("--repository", remote.world.root) if before else ()
        ran = [run(*before, *command, *repository) for command in commands]
        assert [r.code for r in ran] == [0, 0, 0, 0], [r.err for r in ran]
        words[where] = [(_alike(r.out), _alike(r.err)) for r in ran]
    assert words["there"] == words["here"], "the first of all ran the gates as well"
    kinds = [r.body["move_kind"] for r in remote.world.control.repository.journal.records() if r.kind == "intent"]
    assert kinds[1:5] == ["pin", "removal", "removal", "promotion"]


def test_refusals_by_url_exit_as_they_do_here(remote, run, monkeypatch) -> None:
    """3 integrity, 5 busy, 6 no server, 7 the move failed: each with its words, as text and as a document."""
    world = remote.world
    world.server.wrong_slots.add(("walker.candidate", 2))
    failed = run("promote", "walker", "1.1.0", "--json")
    assert (failed.code, failed.document["error"]["code"]) == (7, "move")
    assert "still serves 1.0.0" in failed.document["error"]["problem"]
    world.server.wrong_slots.clear()
    with world.control.repository.writer("something else"):
        busy = run("promote", "walker", "1.1.0", "--wait", "0")
    assert (busy.code, "something else" in busy.err) == (5, True)
    path = world.root / "walker" / "2" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"other")
    wrong = run("promote", "walker", "1.1.0")
    assert (wrong.code, "model.onnx" in wrong.err, "Next:" in wrong.err) == (3, True, True)
    endpoint.clear(world.control.repository)
    assert run("rollback", "walker", "--to", "1.0.0").code == 6
    monkeypatch.setenv("POLICYCTL_API__TOKEN", remote.secrets[Scope.READ])
    assert run("rollback", "walker").code == 2
    assert run("status").code == 0
    monkeypatch.setenv("POLICYCTL_API__TOKEN", remote.secrets[Scope.PROMOTE])
    refused = run("unserve", "walker", "--alias", "production")
    assert (refused.code, "needs scope admin" in refused.err) == (2, True)


def test_no_control_api_is_told_as_no_server(run, monkeypatch) -> None:
    """Exit code 6 with what to do, at once; something else at that address too."""
    gone = run("--api", "http://127.0.0.1:1", "status", "--json")
    assert (gone.code, gone.document["error"]["code"]) == (6, "server")
    assert "policyctl api" in gone.document["error"]["remedy"]


@pytest.mark.parametrize("url", ["ftp://x", "x", "http://", "https://me:secret@x", "https://x/?a=b", "http://[::"])
def test_an_address_that_is_none_is_refused(run, url) -> None:
    """With an example of one."""
    refused = run("--api", url, "status")
    assert (refused.code, "http://127.0.0.1:8004" in refused.err) == (2, True)


def test_a_token_does_not_travel_in_clear(run, monkeypatch) -> None:
    """Plain HTTP to another machine is refused before anything is sent."""
    monkeypatch.setenv("POLICYCTL_API__TOKEN", "policyctl_x")
    refused = run("--api", "http://policies.example.com", "status")
    assert (refused.code, "in clear" in refused.err) == (2, True)


def test_what_cannot_go_by_url_says_so(run, monkeypatch, tmp_path) -> None:
    """Nothing works on a repository here while another was meant; '' brings it back."""
    monkeypatch.setenv("POLICYCTL_API__URL", "http://127.0.0.1:1")
    for command in (("verify",), ("validate", "walker", "1.0.0"), ("gc",), ("serve",), ("history", "--verify")):
        refused = run(*command)
        assert (refused.code, "cannot go by --api" in refused.err) == (2, True), command
        assert f"--api '' {command[0]}" in refused.err
    assert "cannot go by --api" in run("--api", "http://x", "export", "y").err
    assert "two different things" in run("status", "--repository", tmp_path).err
    assert "two different things" in run("rollback", "walker", "--url", "x:1").err
    assert "holds no published policy" in run("--api", "", "verify").err
    assert {"promote", "rollback", "abort", "pin", "unpin", "unserve", "status", "history", "console"} == set(BY_URL)


def test_tokens_are_made_listed_and_revoked(run, tmp_path) -> None:
    """The secret is printed once, alone on stdout; a dry run makes none; a name is never given twice."""
    assert run("token", "create", "ci", "--dry-run", "-r", tmp_path).out.startswith("Would create token ci for read")
    assert not (tmp_path / ".policyctl").exists()
    made = run("token", "create", "ci", "--scope", "promote", "--days", "90", "-r", tmp_path)
    assert re.fullmatch(r"policyctl_[A-Za-z0-9_-]{43}\n", made.out)
    shown = run("token", "list", "-r", tmp_path)
    assert made.out.strip()[-4:] in shown.out
    assert made.out.strip() not in shown.out
    assert run("token", "create", "ci", "-r", tmp_path).code == 2
    assert run("token", "create", "CI!", "-r", tmp_path).code == 2
    assert run("token", "create", "x", "--days", "-1", "-r", tmp_path).code == 2
    assert run("token", "revoke", "ci", "--dry-run", "--json", "-r", tmp_path).document["dry_run"] is True
    assert run("token", "list", "--json", "-r", tmp_path).document[0]["state"] == "good"
    assert run("token", "revoke", "ci", "-r", tmp_path).code == 0
    assert run("token", "revoke", "ci", "-r", tmp_path).code == 0
    assert run("token", "list", "--json", "-r", tmp_path).document[0]["state"] == "revoked"
    assert run("token", "revoke", "nobody", "-r", tmp_path).code == 2
    document = run("token", "create", "b", "--json", "-r", tmp_path).document
    assert (document["scope"], "digest" in document, document["token"][-4:]) == ("read", False, document["last_four"])
