"""Refusals: an exit code, nothing on stdout, the problem and what to do next on stderr."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from exports import export_of
from world import CONTRACT, World, write_export

from policyctl.domain.tensor import TensorSpec

LONG = "w" * 5000
NO_MODEL = ("'nobody' is not published", "Published models: walker")
NO_RELEASE = ("no release '9.9.9'", "Published releases: 1.0.0")
NO_NAME = ("is not allowed", "a-z")
NO_VERSION = ("is not a semantic version", "MAJOR.MINOR.PATCH")
NO_SERVER = ("no server", "policyctl serve")
NO_REPOSITORY = ("holds no published policy", "--repository")

REFUSED = [
    (("promote", "nobody", "1.0.0"), 2, NO_MODEL),
    (("rollback", "nobody"), 2, NO_MODEL),
    (("rollback", "nobody", "--to", "1.0.0"), 2, NO_MODEL),
    (("abort", "nobody"), 2, NO_MODEL),
    (("validate", "nobody", "1.0.0"), 2, NO_MODEL),
    (("status", "nobody"), 2, NO_MODEL),
    (("probe", "nobody"), 2, NO_MODEL),
    (("probe", "walker", "--alias", "staging"), 2, ("names no release", "policyctl promote")),
    (("probe",), 6, NO_SERVER),
    (("probe", "--url", "127.0.0.1:9"), 6, ("127.0.0.1:9", "")),
    (("history", "nobody"), 2, NO_MODEL),
    (("verify", "nobody"), 2, NO_MODEL),
    (("promote", "walker", "9.9.9"), 2, NO_RELEASE),
    (("promote", "walker", "^2"), 2, ("no release '^2'", "Published releases: 1.0.0")),
    (("promote", "walker", "staging"), 2, ("no release 'staging'", "Published releases: 1.0.0")),
    (("promote", "walker", "1.0.0", "--alias", "latest"), 2, ("reserved", "newest")),
    (("promote", "walker", "1.0.0", "--alias", "2.0.0"), 2, ("never moves", "policyctl pin")),
    (("rollback", "walker", "--alias", "1.0.0"), 2, ("never moves", "policyctl pin")),
    (("pin", "walker", "9.9.9"), 2, NO_RELEASE),
    (("pin", "nobody", "1.0.0"), 2, NO_MODEL),
    (("pin", "walker", "1.0.0"), 6, NO_SERVER),
    (("unpin", "walker", "1.0.0"), 2, ("1.0.0 is not pinned", "Nothing of walker is served")),
    (("unserve", "walker", "--alias", "staging"), 2, ("no alias 'staging'", "Nothing of walker is served")),
    (("unserve", "nobody", "--alias", "staging"), 2, NO_MODEL),
    (("release", "next", "walker", "nowhere"), 2, ("not a folder", "policyctl export")),
    (("release", "next", "walker", "EXPORT", "--after", "2.0.0"), 2, ("no release '2.0.0'", "1.0.0")),
    (("release", "next", "walker", "EXPORT", "--pre", "r c"), 2, NO_VERSION),
    (("release", "next", "Walker", "EXPORT"), 2, NO_NAME),
    (("publish", "OTHER", "-n", "walker", "--release", "1.0.1"), 2, ("needs MAJOR", "Publish it as 2.0.0")),
    (("publish", "EXPORT", "-n", "walker", "--release", "1.0.0+gpu"), 2, ("equals 1.0.0", "1.0.1 would do")),
    (("promote", "walker", ""), 2, ("no release ''", "1.0.0")),
    (("promote", "walker", "1.0.0\n"), 2, (r"no release '1.0.0\n'", "1.0.0")),
    (("rollback", "walker", "--to", "9.9.9"), 2, NO_RELEASE),
    (("validate", "walker", "9.9.9"), 2, NO_RELEASE),
    (("promote", "", "1.0.0"), 2, NO_NAME),
    (("promote", "../walker", "1.0.0"), 2, NO_NAME),
    (("promote", "walker\n", "1.0.0"), 2, NO_NAME),
    (("promote", LONG, "1.0.0"), 2, NO_NAME),
    (("promote", "walker", "1.0.0", "--alias", ""), 2, NO_NAME),
    (("promote", "walker", "1.0.0", "--alias", "A/B"), 2, NO_NAME),
    (("promote", "walker", "1.0.0", "--alias", LONG), 2, NO_NAME),
    (("promote", "walker", "1.0.0", "--alias", "candidate"), 2, ("reserved", "staging")),
    (("status", ""), 2, ("'' is not published", "walker")),
    (("history", ""), 2, ("'' is not published", "walker")),
    (("verify", "walker\n"), 2, (r"'walker\n' is not published", "walker")),
    (("abort", "walker"), 2, ("no move of walker", "policyctl status walker")),
    (("promote", "walker", "1.0.0"), 6, NO_SERVER),
    (("promote", "walker", "1.0.0", "--dry-run"), 6, NO_SERVER),
    (("rollback", "walker", "--to", "1.0.0"), 6, NO_SERVER),
    (("promote", "walker", "1.0.0", "--url", "127.0.0.1:9"), 6, ("127.0.0.1:9", "")),
    (("bench", "walker"), 2, ("names no release", "policyctl promote")),
    (("bench", "walker", "--concurrency", "1", "--rate", "1"), 2, ("exclude", "one of them")),
    (("bench", "walker", "--concurrency", "some"), 2, ("'some'", "--concurrency 1,8")),
    (("bench", "walker", "--rate", "nan"), 2, ("'nan'", "--rate 1,8")),
    (("publish", "nowhere", "-n", "walker", "--release", "1.1.0"), 2, ("not a folder", "policyctl export")),
    (("publish", LONG, "-n", "walker", "--release", "1.1.0"), 2, ("cannot be read (File name too long)", "Check")),
    (("publish", "EXPORT", "-n", "Walker", "--release", "1.1.0"), 2, NO_NAME),
    (("publish", "EXPORT", "-n", "walker", "--release", "v1"), 2, NO_VERSION),
    (("publish", "EXPORT", "-n", "walker", "--release", "1.1.0\n"), 2, NO_VERSION),
    (("publish", "NEXT", "-n", "walker", "--release", "1.0.0"), 2, ("was published already", "never used again")),
    (("publish", "NEXT", "-n", "walker", "--release", "1.0.0", "--dry-run"), 2, ("already", "never used again")),
    *((("-r", bad), 2, ("", "")) for bad in ("FILE", "FILE/below", LONG, "LOOP")),
    (("status", "-r", "absent"), 2, NO_REPOSITORY),
    (("status", "-r", ""), 2, ("names no file or folder", "--help explains it")),
    (
        ("publish", "EXPORT", "-n", "m", "--release", "1.0.0", "-r", ""),
        2,
        ("names no file or folder", "--help explains it"),
    ),
    (("bench", "walker", "--concurrency", "1,1025"), 2, ("1025 is more than 1024", "--concurrency 1,8")),
    (("bench", "walker", "--profile", "soak", "-c", "5000"), 2, ("5000 is more than 1024", "--concurrency 1,8")),
    (("promote", "walker", "1.0.0", "-r", "absent"), 2, NO_REPOSITORY),
]
LOOKING = (("status",), ("history",), ("verify",), ("promote", "walker", "1.0.0"), ("rollback", "walker"))
CASES = [
    (command + given if given[0] == "-r" else given, code, said)
    for given, code, said in REFUSED
    for command in (
        (*LOOKING, ("publish", "EXPORT", "-n", "m", "--release", "1.0.0"), ("abort", "m"), ("bench", "walker"))
        if given[0] == "-r"
        else ((),)
    )
]


@pytest.mark.parametrize(("arguments", "code", "said"), CASES, ids=lambda v: repr(v)[:50] if v else "-")
def test_a_refusal_has_a_code_a_problem_and_a_next_step(
    quiet_world: World, run, arguments: tuple[str, ...], code: int, said: tuple[str, str]
) -> None:
    """In words: stdout stays empty. With --json: one document that says the same, with the same code."""
    (quiet_world.folder / "FILE").touch()
    (quiet_world.folder / "LOOP").symlink_to("LOOP")
    write_export(quiet_world.folder / "EXPORT", 1)
    write_export(quiet_world.folder / "NEXT", 2)
    export_of(quiet_world.folder / "OTHER", replace(CONTRACT, observations=(TensorSpec("seen", "float64", (2,)),)))
    before = quiet_world.control.repository.journal.path.read_bytes()
    plain, as_json = run(*arguments), run(*arguments, "--json")
    assert (plain.code, as_json.code) == (code, code), plain.err
    assert plain.out == ""
    problem, remedy = said
    assert plain.err.startswith(f"Error ({as_json.document['error']['code']}): ")
    assert problem in plain.err
    assert "\nNext: " in plain.err
    assert remedy in plain.err.partition("\nNext: ")[2]
    error = as_json.document["error"]
    assert error["exit_code"] == code
    assert problem in error["problem"]
    assert remedy in error["remedy"]
    assert not (quiet_world.folder / "absent").exists()
    assert quiet_world.control.repository.journal.path.read_bytes() == before


WRONG_USAGE = [
    ("promote",),
    ("promote", "walker"),
    ("promote", "walker", "1.0.0", "extra"),
    ("promote", "walker", "1.0.0", "--format", "exe"),
    ("promote", "walker", "1.0.0", "--wait", "-1"),
    ("promote", "walker", "1.0.0", "--wait", "soon"),
    ("history", "--limit", "0"),
    ("status", "--unknown"),
    ("publish", "x", "--model", "m"),
    ("unserve", "walker"),
    ("release", "last"),
    ("release", "next", "walker"),
    ("deploy",),
]


@pytest.mark.parametrize("arguments", WRONG_USAGE, ids=" ".join)
def test_wrong_usage_is_told_in_the_same_two_ways(quiet_world, run, arguments: tuple[str, ...]) -> None:
    """A line that cannot be parsed exits with 2, and with --json leaves a document like any refusal."""
    plain, as_json = run(*arguments), run(*arguments, "--json")
    assert (plain.code, as_json.code) == (2, 2)
    assert (plain.out, plain.err != "") == ("", True)
    error = as_json.document["error"]
    assert (error["code"], error["exit_code"]) == ("usage", 2)
    assert error["problem"]


def test_a_wait_that_never_ends_is_refused(quiet_world, run) -> None:
    """`--wait nan` is not a time."""
    assert run("promote", "walker", "1.0.0", "--wait", "nan").code == 2


def test_a_misspelt_variable_is_told(quiet_world, run, monkeypatch) -> None:
    """Better a refusal than work on another repository."""
    monkeypatch.setenv("POLICYCTL_REPOSITRY", "elsewhere")
    refused = run("status")
    assert refused.code == 2
    assert "POLICYCTL_REPOSITRY" in refused.err


def test_tampering_exits_with_three(served_world, run) -> None:
    """Verify, history and promotion tell a changed file or journal apart from wrong usage."""
    path = served_world.root / "walker" / "2" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"x")
    for as_json in ((), ("--json",)):
        found = run("verify", *as_json)
        assert found.code == 3
        assert "model.onnx" in found.out
        assert run("promote", "walker", "1.1.0", *as_json).code == 3
    assert run("verify", "--json").document["intact"] is False
    journal = served_world.control.repository.journal.path
    journal.write_bytes(journal.read_bytes().replace(b'"slot":1', b'"slot":2', 1))
    for command in ("status", "history", "verify"):
        refused = run(command, "--json")
        assert (refused.code, refused.document["error"]["code"]) == (3, "integrity")


def test_a_gate_that_did_not_pass_exits_with_four(quiet_world, run) -> None:
    """Without a server the gate golden is inconclusive, which does not pass."""
    plain, as_json = run("validate", "walker", "1.0.0"), run("validate", "walker", "1.0.0", "--json")
    assert (plain.code, as_json.code) == (4, 4)
    assert "golden inconclusive" in plain.err
    assert as_json.document["verdict"] == "inconclusive"


def test_another_writer_exits_with_five(served_world, run) -> None:
    """The second one learns who is at work."""
    with served_world.control.repository.writer("a long promotion"):
        refused = run("promote", "walker", "1.1.0", "--wait", "0")
    assert refused.code == 5
    assert "a long promotion" in refused.err


def test_a_failed_move_exits_with_seven(served_world, run) -> None:
    """The incumbent was kept, and the message says so."""
    served_world.server.wrong_slots.add(("walker.candidate", 2))
    refused = run("promote", "walker", "1.1.0")
    assert (refused.code, refused.out) == (7, "")
    assert "still serves 1.0.0" in refused.err


def test_an_empty_variable_is_not_the_working_directory(run, monkeypatch, tmp_path) -> None:
    """As a script leaves it whose own variable is not set; nor is a URL a folder."""
    monkeypatch.chdir(tmp_path)
    for value, problem in (("", "names no folder"), ("s3://bucket/models", "begins with s3://")):
        monkeypatch.setenv("POLICYCTL_REPOSITORY", value)
        refused = run("status")
        assert refused.code == 2
        assert "repository" in refused.err
        assert problem in refused.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("release", "export", "walker", "1.0.0"),
        ("release", "export", "walker", "1.0.0", "--leapp"),
        ("release", "import"),
        ("repair", "walker", "--from"),
        ("export", "-o", "out"),
        ("status", "--repository"),
    ],
)
def test_a_url_is_never_taken_for_a_folder_of_that_name(served_world, run, monkeypatch, tmp_path, arguments) -> None:
    """It is refused with what it begins with, and no folder `ftp:` comes into being."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    refused = run(*arguments, "ftp://host/walker")
    assert refused.code == 2
    assert "begins with ftp://" in refused.err
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupt_while_python_still_imports_leaves_no_traceback() -> None:
    """The command is a module that imports nothing before it can be interrupted."""
    program = (
        "import sys, importlib.abc\n"
        "class Interrupts(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from policyctl.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_exits_with_130_and_says_what_is_served(served_world, run, monkeypatch) -> None:
    """Ctrl-C is neither a success nor a defect, and nobody has to ask what came of it."""
    from policyctl.services.show import status

    monkeypatch.setattr(status, "status", _interrupt)
    stopped = run("status")
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.err.splitlines() == [
        "Interrupted.",
        "production of walker is 1.0.0.",
        "What answers: policyctl status",
    ]


def test_an_interrupted_move_says_who_carries_it_on(served_world, run, monkeypatch) -> None:
    """The journal knows it; the server finishes or reverts it."""
    monkeypatch.setattr("policyctl.services.moves.mover.require_certified", _interrupt)
    stopped = run("promote", "walker", "1.1.0")
    assert stopped.code == 130
    assert "Interrupted.\nThe promotion of walker" in stopped.err
    assert "is not over: the running server finishes or reverts it" in stopped.err
    assert "production of walker is 1.0.0." in stopped.err


def test_an_interrupt_where_nothing_is_served_says_so(quiet_world, run, monkeypatch) -> None:
    """A command without a repository says nothing more."""
    from policyctl.services.show import status

    monkeypatch.setattr(status, "status", _interrupt)
    assert run("status").err.splitlines()[:2] == ["Interrupted.", "No alias names a release."]


def test_a_reader_that_leaves_is_no_failure(quiet_world) -> None:
    """`policyctl history | head -0` ends quietly."""
    for arguments in (["history"], ["history", "--json"]):
        child = subprocess.Popen(
            [sys.executable, "-m", "policyctl.cli.main", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        assert (child.stderr.read(), child.wait()) == (b"", 0)


def test_a_full_disk_is_told_in_words(quiet_world, run, monkeypatch) -> None:
    """An error of the file system that reaches a command is a refusal with a remedy."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_export(quiet_world.folder / "next", 2)
    monkeypatch.setattr(os, "fsync", full)
    refused = run("publish", quiet_world.folder / "next", "-n", "walker", "--release", "2.0.0")
    assert refused.code == 2
    assert "No space left" in refused.err
    assert "df" in refused.err


def test_a_named_server_that_does_not_answer_is_not_said_not_to_be_there(quiet_world, run) -> None:
    """What was asked and what came: here a port where something closes what speaks gRPC, as Triton's HTTP port does."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        url = f"127.0.0.1:{there.getsockname()[1]}"
        threading.Thread(target=_close_all, args=(there,), daemon=True).start()
        refused = run("probe", "--url", url, "--require")
        assert refused.code == 6
        assert f"no Triton answers at {url}: what answers there speaks no gRPC" in refused.err
        assert f"Server     {url} does not answer\n" in run("status", "--url", url).out
    assert "Server     none. Start one: policyctl serve" in run("status").out


def _close_all(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()
