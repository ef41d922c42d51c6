"""Help: quick, with an example, for every command."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest
import typer

from policyctl import __version__
from policyctl.cli.commands import MODULES, commands_of
from policyctl.cli.main import app
from policyctl.errors import ServerError

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_job_has_its_command() -> None:
    """The commands that the README promises are there."""
    promised = {"export", "publish", "validate", "promote", "rollback", "abort", "status", "history", "verify"}
    assert set(COMMANDS) >= promised | {"serve", "doctor", "bench", "evaluate"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_an_example_that_it_understands(run, command: str) -> None:
    """Each help says what the command does, and each of its examples is a line that parses."""
    shown = run(command, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert "Example" in shown.out
    lines = [line.strip() for line in (app_command(command).help or "").splitlines()]
    examples = [line for line in lines if line.startswith(f"policyctl {command}")]
    assert examples, "no example names the command"
    for line in examples:
        app_command(command).make_context(command, shlex.split(line)[2:])


def app_command(name: str):
    """The click command of that name."""
    return typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    """No option or argument is left without a word."""
    for parameter in app_command(command).params:
        assert getattr(parameter, "help", None), f"{command}: {parameter.name}"


def test_help_imports_nothing_heavy() -> None:
    """Asking for help, for every command, loads neither a framework, nor a runtime, nor Triton's client."""
    code = f"""
import json, sys
from policyctl.cli.main import main
codes = []
for name in [None, *{COMMANDS!r}]:
    sys.argv = ["policyctl", *([name] if name else []), "--help"]
    try:
        main()
    except SystemExit as stop:
        codes.append(stop.code or 0)
heavy = {{"torch", "onnx", "onnxruntime", "openvino", "tritonclient", "tensorrt", "stable_baselines3", "gymnasium",
          "grpc", "gevent", "fastapi", "uvicorn",
          "prometheus_client", "scipy", "pandas", "matplotlib", "model_signing", "cryptography", "sigstore",
          "ruamel.yaml"}}
sys.stderr.write(json.dumps([codes, sorted(heavy & set(sys.modules))]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    codes, heavy = json.loads(done.stderr)
    assert codes == [0] * (len(COMMANDS) + 1)
    assert heavy == []


def test_every_module_registers_the_commands_that_it_is_looked_up_for() -> None:
    """None is missing from the table, and none stands under another module."""
    for module in set(MODULES.values()):
        assert list(commands_of(module)) == [command for command in MODULES if MODULES[command] == module]


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
