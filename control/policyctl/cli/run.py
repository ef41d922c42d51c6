"""Commands that run the servers, open them, or say on what: serve, api, console, doctor, hardware, version."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer

from policyctl import __version__
from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.choices import Anonymous, Engine
from policyctl.errors import UnsupportedError


@options.command("repository", "url")
def serve(
    call: Call,
    engine: Annotated[
        Engine | None,
        typer.Option(help="Who runs Triton: this command, Docker, or somebody else (--url). [default: embedded]"),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on. [default: 127.0.0.1]")
    ] = None,
    http_port: Annotated[int | None, typer.Option(metavar="PORT", help="0 takes a free one. [default: 8000]")] = None,
    grpc_port: Annotated[int | None, typer.Option(metavar="PORT", help="0 takes a free one. [default: 8001]")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="0 takes a free one. [default: 8002]")
    ] = None,
    control_metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Of policyctl's own metrics; 0 takes a free one. [default: 8003]")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Pass on Triton's informational lines.")] = False,
) -> None:
    """Run Triton on the repository until Ctrl-C or SIGTERM.

    Every alias is verified, loaded and certified by its golden set before the
    server is announced, and asked once a second afterwards. What does not
    answer, or answers wrongly, is loaded again, and the server started again if
    need be. Triton's metrics and policyctl's own are at two ports, /metrics.

    The engine embedded is the Triton of the nvidia-pytriton wheel; docker runs
    NVIDIA's image (POLICYCTL_DOCKER__IMAGE and others); external looks after a
    Triton that somebody else runs on the same repository, and waits for it
    where it is silent. See policyctl docs containers.

    Settings files are looked at once a second, and at once on SIGHUP: what has
    changed and is whole is taken over without touching a request.

    With --store it is a node of a fleet: what the store's journal says is what
    it serves. See policyctl docs fleet.

    Examples:
        policyctl serve
        policyctl serve --http-port 9000 --grpc-port 9001 --metrics-port 9002
        policyctl --profile production serve
        policyctl serve --engine external --url 127.0.0.1:8001
        policyctl --store s3://policies/robots serve
    """
    from policyctl.cli.warmed import kept
    from policyctl.services.supervise.serve import Companion, alone
    from policyctl.services.supervise.serve import serve as service

    given = {
        "engine": engine,
        "host": host,
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "control_metrics_port": control_metrics_port,
    }
    control, reading = call.serving(server=given)
    companion: Companion = alone
    if control.settings.fleet.store:
        from policyctl.services.fleet.node import follow as companion
    with kept(control.repository.root) if control.settings.server.warm_commands else contextlib.nullcontext():
        service(control, reading, verbose=verbose, companion=companion)


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


@options.command("repository")
def console(
    call: Call,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
) -> None:
    """Open the web console of `policyctl api`. It prints the address, and opens a browser where there is a screen.

    The console shows models, releases and the journal, promotes, rolls back and
    aborts. It asks for a token: policyctl token create NAME --scope promote.

    Examples:
        policyctl console
        policyctl console --no-browser
        policyctl --api https://policies.example.com console
    """
    import webbrowser

    from policyctl.adapters import api_address

    remote = call.remote()
    url = f"{api_address.read(call.control().repository) if remote is None else remote.api.url}/ui"
    opened = not no_browser and _has_screen() and webbrowser.open(url)
    call.data({"url": url, "opened": opened}, words=url)


def _has_screen() -> bool:
    """Whether a browser would have a window; one of the terminal would take the terminal."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@options.command("repository", "url")
def doctor(
    call: Call,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Also load a release again and again on the running server, under load; counts what is lost."
        ),
    ] = False,
) -> None:
    """Check whether this machine can run the server. Exits with 8 if not.

    The settings say which engine runs the server.

    Examples:
        policyctl doctor
        policyctl doctor --deep
    """
    from policyctl.services.machine.doctor import examine

    control = call.control()
    checks = examine(control)
    if deep:
        from policyctl.services.moves import swaps

        checks = (*checks, swaps.check(control))
    failed = [c for c in checks if c.status == "failed"]
    call.table(
        {"able": not failed, "checks": checks},
        "This machine",
        ("check", "status", "found", "fix"),
        [(c.name, c.status.upper() if c.status == "failed" else c.status, c.detail, c.fix) for c in checks],
    )
    if failed:
        call.end_with(UnsupportedError(f"{failed[0].name}: {failed[0].detail}", remedy=failed[0].fix))


@options.command()
def hardware(
    call: Call,
    runtimes: Annotated[
        bool, typer.Option(help="Ask OpenVINO, ONNX Runtime and torch what they make of it; takes seconds.")
    ] = True,
) -> None:
    """Show what this machine is, and what to set on it and why.

    Results of `policyctl bench` are kept by the fingerprint that it shows. `policyctl serve`
    starts from the same facts.

    Examples:
        policyctl hardware
        policyctl hardware --no-runtimes --json
    """
    from policyctl.domain.recommendations import recommend
    from policyctl.services.machine.hardware import ask_runtimes, facts
    from policyctl.serving.hardware import detect

    machine = detect()
    advice = recommend(machine)
    if call.as_json:
        asked = ask_runtimes() if runtimes else {}
        call.data({"hardware": machine, "recommendations": advice, "runtimes": asked})
        return
    call.table(None, "This machine", ("what", "found"), machine.rows())
    if advice:
        rows = [(r.setting, r.value, r.reason, r.basis) for r in advice]
        call.table(None, "Recommended", ("set", "to", "why", "rests on"), rows)
    else:
        call.say("The defaults suit this machine.")
    if runtimes:
        answers = [(name, *fact) for name, answer in ask_runtimes().items() for fact in facts(answer)]
        call.table(None, "Runtimes", ("runtime", "what", "found"), answers)


@options.command()
def version(call: Call) -> None:
    """Print the version, as --version does.

    Example:
        policyctl version --json
    """
    call.data({"version": __version__}, words=f"policyctl {__version__}")
