"""The command that runs the control API: api."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import UnsupportedError
from policyctl.settings import Anonymous


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(api)


def api(
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on. Another than this machine's own needs a token"
            " (and TLS before it). [default: 127.0.0.1]"
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one. [default: 8004]")] = None,
    anonymous: Annotated[
        Anonymous | None,
        typer.Option(help="What callers of this machine may do without a token: look, or nothing. [default: read]"),
    ] = None,
    openapi: Annotated[bool, typer.Option("--openapi", help="Print the OpenAPI document and end.")] = False,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
) -> None:
    """Answer the control API over HTTP until Ctrl-C or SIGTERM: look, promote, roll back, pin, abort.

    It stands beside `policyctl serve`, which may run or not. Whoever changes
    something needs a token. It speaks plain HTTP, on this machine alone.
    Settings files that change are taken over as by `policyctl serve`.

    Examples:

        policyctl api

        policyctl api --port 9004 --anonymous none

        policyctl api --openapi
    """
    output = Output()
    try:
        from policyctl.api.server import document, serve
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"the control API needs {error.name}, which is not installed", remedy="pip install 'policyctl[api]'"
        ) from error
    if openapi:
        sys.stdout.write(document())
        return
    reading = options.read_layers(repository, url, api={"host": host, "port": port, "anonymous": anonymous})
    settings = options.here(reading)
    for words in reading.warnings:
        output.say(f"WARNING: {words}.")
    serve(options.control_of(settings, output), reading)
