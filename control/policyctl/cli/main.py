"""The command `policyctl`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from policyctl import __version__
from policyctl.cli.commands import Commands
from policyctl.errors import PolicyctlError, UsageError

# Pydantic would look through every installed distribution for plugins. None has to do with settings.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")

_INTERRUPTED = 130

app = typer.Typer(
    name="policyctl",
    cls=Commands,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="""Publish, gate, promote, roll back and serve reinforcement-learning policies on NVIDIA Triton.

    The ten commands to begin with, in this order; serve keeps its terminal.

    Examples:

        policyctl doctor

        policyctl export policy.onnx -o build/walker

        policyctl publish build/walker --model walker --release 1.0.0

        policyctl serve

        policyctl validate walker 1.0.0

        policyctl promote walker 1.0.0 --reason "first"

        policyctl status

        policyctl top

        policyctl logs --follow

        policyctl rollback walker
    """,
    epilog="policyctl COMMAND --help has examples of each. Exit codes: 0 done, 2 wrong usage, 3 integrity,"
    " 4 a gate did not pass, 5 somebody else is at work, 6 no server, 7 the move failed, was aborted or was taken back,"
    " 8 not possible on this machine, 130 interrupted.",
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"policyctl {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    api: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Use a control API instead of a repository: promote, rollback, abort, pin, unpin, unserve,"
            " status, history. Its token: POLICYCTL_API__TOKEN. [env: POLICYCTL_API__URL]",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Use the store of a fleet instead of a repository: promote, rollback, abort, unserve, status,"
            " history; serve becomes one of its nodes. [env: POLICYCTL_FLEET__STORE]",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="The settings file. [env: POLICYCTL_CONFIG] [default: policyctl.yaml or .toml, if there]",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="development, staging, production, or any that has a file. [env: POLICYCTL_PROFILE]"
        ),
    ] = None,
) -> None:
    from policyctl.cli import call

    call.begin(call.Root(config_file, profile, api, store, context.invoked_subcommand or ""))


def main() -> None:
    """Run the command line; the one place that turns an error into an exit code."""
    try:
        code = _run(as_json="--json" in sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of stdout has gone (head, less): not a failure of ours. The
        # interpreter flushes once more at its end, so give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    _leave(code)


def _leave(code: int) -> None:
    """End the process, also where the thread of an export runs a policy that never ends."""
    steps = sys.modules.get("policyctl_exporters.steps")
    if steps is not None and steps.unfinished():
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(*, as_json: bool) -> int:
    try:
        code = app(prog_name="policyctl", standalone_mode=False)
    except PolicyctlError as error:
        return _refused(error, as_json=as_json)
    except PermissionError as error:
        from policyctl.plain_files import denied

        return _refused(denied(error), as_json=as_json)
    except typer.TyperException as error:
        return _refused(_wrong_usage(error), as_json=as_json)
    except typer.Abort:
        sys.stderr.write("Aborted.\n")
        return 1
    except SystemExit as stop:
        # Typer turns a broken pipe into an exit, and keeps it as the context.
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        raise
    if code == _INTERRUPTED:
        from policyctl.cli.call import control_in_use
        from policyctl.cli.interrupted import words

        sys.stderr.write(words(control_in_use(), sys.argv[1:]))
    return code or 0


def _refused(error: PolicyctlError, *, as_json: bool) -> int:
    from policyctl.cli.output import Output

    Output(as_json=as_json).refuse(error)
    return error.exit_code


def _wrong_usage(error: typer.TyperException) -> UsageError:
    """A command line that Typer does not understand."""
    context = getattr(error, "ctx", None)
    if context is None:
        return UsageError(error.format_message(), remedy="See policyctl --help.")
    usage = context.get_usage().removeprefix("Usage: ")
    return UsageError(error.format_message(), remedy=f"Type {usage}; {context.command_path} --help explains it.")


if __name__ == "__main__":
    main()
