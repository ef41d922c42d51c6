"""Commands that run the server: serve, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import UnsupportedError


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(serve)
    app.command()(doctor)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    http_port: Annotated[int | None, typer.Option(help="0 takes a free one. [default: 8000]")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="0 takes a free one. [default: 8001]")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="0 takes a free one. [default: 8002]")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Pass on Triton's informational lines.")] = False,
    repository: options.RepositoryOption = None,
) -> None:
    """Run the embedded Triton on the repository until Ctrl-C or SIGTERM.

    Every alias is verified, loaded and certified by its golden set before the
    server is announced, and asked once a second afterwards. What does not
    answer is loaded again, and the server started again if need be.

    Examples:

        policyctl serve

        policyctl serve --http-port 9000 --grpc-port 9001 --metrics-port 9002
    """
    from policyctl.services.serve import serve as service

    given = {"host": host, "http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    settings = options.read_settings(repository, server=given)
    service(options.control_of(settings, Output()), verbose=verbose)


def doctor(
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check whether this machine can run the embedded Triton. Exits with 8 if not.

    Example:

        policyctl doctor
    """
    from policyctl.services.doctor import examine

    output = Output(as_json)
    checks = examine(options.control_of(options.read_settings(repository), output))
    failed = [c for c in checks if c.status == "failed"]
    output.table(
        {
            "able": not failed,
            "checks": [{"name": c.name, "status": c.status, "detail": c.detail, "fix": c.fix} for c in checks],
        },
        "This machine",
        ("check", "status", "found", "fix"),
        [(c.name, c.status.upper() if c.status == "failed" else c.status, c.detail, c.fix) for c in checks],
    )
    if failed:
        if as_json:
            raise typer.Exit(UnsupportedError.exit_code)
        raise UnsupportedError(f"{failed[0].name}: {failed[0].detail}", remedy=failed[0].fix)
