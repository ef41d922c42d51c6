"""The command `policyctl`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from policyctl import __version__
from policyctl.cli import options
from policyctl.cli.commands import MARKUP, Commands
from policyctl.cli.output import Output
from policyctl.errors import PolicyctlError, UsageError

_INTERRUPTED = 130
_INTERRUPTED_MOVE = (
    "Interrupted. If the move had begun, the running server finishes or reverts it within seconds,"
    " and so does the next promote or rollback. A bake is carried on by the server. Look: policyctl status\n"
)

app = typer.Typer(
    name="policyctl",
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    help="Publish, gate, promote, roll back and serve reinforcement-learning policies on NVIDIA Triton.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 integrity, 4 a gate did not pass, 5 somebody else is at work,"
    " 6 no server, 7 the move failed and the incumbent was kept, 8 not possible on this machine.",
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"policyctl {__version__}\n")
        raise typer.Exit


BY_URL = frozenset({"promote", "rollback", "abort", "pin", "unpin", "unserve", "status", "history"})
"""Commands that a control API can carry out."""


@app.callback()
def _root(
    context: typer.Context,
    api: Annotated[
        str | None,
        typer.Option(
            "--api",
            metavar="<url>",
            help="Use a control API instead of a repository: promote, rollback, abort, pin, unpin, unserve,"
            " status, history. Its token: POLICYCTL_API__TOKEN. [env: POLICYCTL_API__URL]",
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
            "--profile",
            help="development, staging, production, or any that has a file. [env: POLICYCTL_PROFILE]",
        ),
    ] = None,
) -> None:
    options.begin(options.Root(config_file, profile, api, context.invoked_subcommand or ""))
    if api and context.invoked_subcommand is not None and context.invoked_subcommand not in BY_URL:
        raise options.by_url_refused(context.invoked_subcommand, api)


def main() -> None:
    """Run the command line; the one place that turns an error into an exit code."""
    try:
        code = _run(as_json="--json" in sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read stdout has gone (head, less): not a failure of ours. The
        # interpreter flushes once more at its end, so give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _run(*, as_json: bool) -> int:
    try:
        app()
    except PolicyctlError as error:
        Output(as_json=as_json).refuse(error)
        return error.exit_code
    except KeyboardInterrupt:
        moving = {"promote", "rollback", "pin", "unpin", "unserve"}.intersection(sys.argv[1:])
        sys.stderr.write("Interrupted.\n" if not moving else _INTERRUPTED_MOVE)
        return _INTERRUPTED
    except SystemExit as stop:
        # typer turns these two into an exit of its own, and keeps them as the context.
        cause = stop.__context__
        if isinstance(cause, BrokenPipeError):
            raise cause from None
        said = getattr(cause, "format_message", None)
        if as_json and said is not None:
            Output(as_json=True).document(UsageError(said(), remedy="See the command's --help."))
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


if __name__ == "__main__":
    main()
