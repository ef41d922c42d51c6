"""The command that runs the control API: api."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.choices import Anonymous
from policyctl.errors import UnsupportedError


@options.command("repository", "url")
def api(
    call: Call,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. Another than this machine's own needs a token"
            " (and TLS before it). [default: 127.0.0.1]",
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="0 takes a free one. [default: 8004]")] = None,
    anonymous: Annotated[
        Anonymous | None,
        typer.Option(help="What callers of this machine may do without a token: look, or nothing. [default: read]"),
    ] = None,
    openapi: Annotated[bool, typer.Option("--openapi", help="Print the OpenAPI document and end.")] = False,
) -> None:
    """Answer the control API over HTTP until Ctrl-C or SIGTERM. It looks, promotes, rolls back, pins, aborts.

    It runs next to `policyctl serve`, or without it. A caller who changes
    something needs a token. It speaks plain HTTP, on this machine alone.
    Settings files that change are taken over as by `policyctl serve`.

    Examples:

        policyctl api

        policyctl api --port 9004 --anonymous none

        policyctl api --openapi
    """
    try:
        from policyctl.api.server import document, serve
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"the control API needs {error.name}, which is not installed", remedy="pip install 'policyctl[api]'"
        ) from error
    if openapi:
        sys.stdout.write(document())
        return
    serve(*call.serving(api={"host": host, "port": port, "anonymous": anonymous}))
