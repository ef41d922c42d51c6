"""Help: quick, with an example, for every command."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from policyctl import __version__
from policyctl.cli.commands import PANELS
from policyctl.cli.help import OTHER_WORDS, RENAMED, summary, synonyms
from policyctl.cli.main import app
from policyctl.errors import ServerError

ROOT = typer.main.get_command(app)
COMMANDS = sorted(ROOT.commands)  # type: ignore[attr-defined]


def every_command(group=ROOT, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command and group below `group`, by what is typed for it."""
    found = {}
    for name, command in group.commands.items():
        found[*path, name] = command
        if hasattr(command, "commands"):
            found |= every_command(command, (*path, name))
    return found


EVERY = every_command()


def examples(text: str) -> list[str]:
    """The command lines of a help text."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("policyctl ")]


def test_every_job_has_its_command() -> None:
    """The commands that the README promises are there."""
    promised = {"export", "publish", "validate", "promote", "rollback", "abort", "status", "history", "verify"}
    assert set(COMMANDS) >= promised | {"serve", "doctor", "bench", "evaluate"}


@pytest.mark.parametrize("path", sorted(EVERY), ids=" ".join)
def test_the_help_of_a_command_shows_examples_that_it_understands(run, parse, path: tuple[str, ...]) -> None:
    """Each help says what the command does, and each of its examples is a line that parses."""
    shown = run(*path, "--help")
    assert (shown.code, shown.err) == (0, "")
    lines = examples(EVERY[path].help or "")
    assert lines, "no example names the command"
    for line in lines:
        assert f"  {line}\n" in shown.out, "an example is shown as it is typed"
        words = shlex.split(line.partition(" > ")[0])[1:]
        parse(words)


@pytest.mark.parametrize("path", [(), *sorted(EVERY)], ids=" ".join)
def test_help_speaks_as_a_shell(run, path: tuple[str, ...]) -> None:
    """-h shows it as well; values have names in capitals, and no markup or type of Python is left."""
    shown = run(*path, "-h")
    assert (shown.code, shown.out) == (0, run(*path, "--help").out)
    usage = shown.out.splitlines()[0]
    assert usage.startswith("Usage: policyctl ")
    for python in ("<", "{", "**", " range", "TEXT", "None", "True", "False"):
        assert python not in shown.out.replace("->", ""), python


def test_help_fits_a_narrow_terminal(run, monkeypatch) -> None:
    """At 60 columns only examples, which are for copying, are wider."""
    monkeypatch.setenv("COLUMNS", "60")
    for path, command in EVERY.items():
        for line in run(*path, "--help").out.splitlines():
            assert len(line) <= 60 or line.strip() in examples(command.help or ""), line


def test_the_list_of_commands_says_what_each_one_says_of_itself() -> None:
    """The sentences of the list stand in a separate table, so that no command is imported for it."""
    listed = dict(row for _, rows in PANELS for row in rows)
    assert sorted(listed) == COMMANDS
    for name, sentence in listed.items():
        assert summary(EVERY[(name,)].help).startswith(sentence.removesuffix(".")), name
        assert len(sentence) <= 66, f"{name} takes more than a line of 80 columns"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ls", "status"),
        ("list", "status"),
        ("deploy", "promote"),
        ("delete", "unserve"),
        ("log", "logs"),
        ("depoly", "promote"),
        ("promot", "promote"),
        ("token delete", "token revoke"),
        ("token ls", "token list"),
        ("config diffs", "config diff"),
        ("release list", "status"),
        ("show", "status"),
    ],
)
def test_a_command_of_another_tool_is_answered_with_ours(run, typed: str, meant: str) -> None:
    """Also a mistyped one; the exit code is that of wrong usage."""
    refused = run(*typed.split(), "--json")
    assert refused.code == 2
    assert refused.document["error"]["problem"] == f"unknown command: policyctl {typed}"
    assert f"\n  policyctl {meant}: " in refused.document["error"]["remedy"]


@pytest.mark.parametrize(("earlier", "today"), RENAMED.items())
def test_an_earlier_spelling_is_answered_with_the_one_of_today(run, earlier: str, today: str) -> None:
    """Each names one command that exists, and none of them works any more."""
    refused = run(earlier, "--json")
    assert (refused.code, refused.document["error"]["remedy"]) == (2, f"It is now: policyctl {today}")
    assert tuple(today.split()) in EVERY
    assert earlier not in COMMANDS


def test_every_synonym_stands_for_a_command() -> None:
    """None of them points to a command that was renamed."""
    names = {path[-1] for path in EVERY}
    assert set(OTHER_WORDS) <= names
    assert not set(synonyms()) & set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("logs", "--level", "loud"), "'loud' is not one of debug, info, warning, error"),
        (("tune", "walker", "--clients", "many"), "'many' is not a whole number"),
        (("tune", "walker", "--clients", "5000"), "5000 is not at most 1024"),
        (("gc", "--days", "-1"), "-1 is not at least 0"),
        (("gc", "--days", "nan"), "'nan' is not a number"),
        (("export", "a.onnx", "-o", ""), "'' names no file or folder"),
        (("export", "a.onnx", "-o", "s3://bucket/out"), "'s3://bucket/out' begins with s3://"),
        (("evaluate", "walker", "--env", "CartPole-v1", "--reference", "https://x/a.zip"), "begins with https://"),
        (
            ("publish", "ftp://host/build", "--model", "walker", "--release", "1.0.0"),
            "'ftp://host/build' begins with ftp://",
        ),
        (("promote",), "Missing argument 'MODEL'"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_can(run, arguments: tuple[str, ...], said: str) -> None:
    """No word of the library that reads the command line; the usage stands with it."""
    refused = run(*arguments)
    assert refused.code == 2
    assert said in refused.err
    assert "Value error" not in refused.err
    assert f"\nNext: Type policyctl {arguments[0]} " in refused.err


@pytest.mark.parametrize("path", sorted(EVERY), ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    """No option or argument is left without a word."""
    for parameter in EVERY[path].params:
        assert getattr(parameter, "help", None), parameter.name


_HEAVY = {
    *("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "stable_baselines3", "gymnasium", "scipy", "pandas"),
    *("tritonclient", "grpc", "gevent", "google.protobuf", "numpy", "matplotlib", "optuna"),
    *("fastapi", "uvicorn", "jinja2", "asyncio", "rich", "model_signing", "sigstore", "cryptography"),
}


def imported_by(commands: list[list[str]], heavy: set[str], folder: Path) -> tuple[list[int], set[str]]:
    """Run commands in one fresh process; their exit codes, and which of `heavy` they imported."""
    code = f"""
import contextlib, io, json, sys
from policyctl.cli.main import main
codes = []
for arguments in {commands!r}:
    sys.argv = ["policyctl", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main()
    except SystemExit as stop:
        codes.append(stop.code or 0)
print(json.dumps([codes, sorted({heavy!r} & set(sys.modules))]))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLICYCTL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=folder
    )
    codes, found = json.loads(done.stdout)
    return codes, set(found)


def test_help_imports_nothing_heavy(tmp_path) -> None:
    """Asking for help, for every command, loads nothing that takes time, not even the reader of settings."""
    commands = [["--help"], ["--version"], *([*path, "--help"] for path in EVERY)]
    heavy = _HEAVY | {"pydantic", "psutil", "prometheus_client", "ruamel.yaml", "yaml", "policyctl.settings"}
    codes, found = imported_by(commands, heavy, tmp_path)
    assert (codes, found) == ([0] * len(commands), set())


def test_a_command_that_finds_no_server_loads_no_client_of_one(quiet_world) -> None:
    """What is published, named and logged is shown without numpy and without Triton's client."""
    looks = ["status", "history", "verify", "logs", "token list", "at now", "gc", "config show", "trust list"]
    commands = [[*line.split(), "-r", str(quiet_world.root)] for line in (*looks, "signatures walker 1.0.0")]
    codes, found = imported_by(commands, _HEAVY, quiet_world.folder)
    assert (codes, found) == ([0] * len(commands), set())


def test_a_file_that_is_not_there_is_refused_before_frameworks_are_loaded(tmp_path) -> None:
    """Importing torch takes seconds; looking for a file takes none."""
    (tmp_path / "policy.zip").touch()
    commands = [
        ["export", "absent.zip", "-o", "out"],
        ["export", "policy.zip", "-o", "out", "--normalizer", "absent.pkl", "--trust-pickle"],
        ["export", "policy.zip", "-o", "policy.zip", "--trust-pickle"],
        ["evaluate", "walker", "--env", "CartPole-v1", "--reference", "absent.zip", "--trust-pickle"],
    ]
    assert imported_by(commands, {"torch", "gymnasium"}, tmp_path) == ([2] * len(commands), set())


def test_a_rollback_by_the_api_imports_what_it_needs() -> None:
    """It is asked for when seconds count: nothing of the other commands, no numpy, no reader of YAML."""
    code = """
import json, sys
from policyctl.cli.main import main
sys.argv = ["policyctl", "--api", "http://127.0.0.1:9", "rollback", "walker"]
try:
    main()
except SystemExit as stop:
    sys.stdout.write(json.dumps([stop.code, sorted(sys.modules)]))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLICYCTL_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    exit_code, modules = json.loads(done.stdout)
    assert exit_code == ServerError.exit_code, done.stderr
    assert {"numpy", "yaml", "tritonclient", "policyctl.cli.bench", "policyctl.cli.look"}.isdisjoint(modules)


def test_the_root_help_tells_the_exit_codes(run) -> None:
    """A script can tell refusals apart without reading code."""
    shown = run("--help")
    text = " ".join(shown.out.split())
    assert all(f" {code} " in text for code in (0, 2, 3, 4, 5, 6, 7, 8))


def test_the_version_is_printed(run) -> None:
    """One line on stdout, also when it is asked by the installed script."""
    assert run("--version").out == f"policyctl {__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "policyctl.cli.main", "--version"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"policyctl {__version__}\n", "")
    assert run("version").out == done.stdout
    assert run("version", "--json").document == {"version": __version__}
