"""Commands that run the server, or look at its machine: serve, doctor, hardware."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import UnsupportedError
from policyctl.settings import Engine


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(serve)
    app.command()(doctor)
    app.command()(hardware)


def serve(
    engine: Annotated[
        Engine | None,
        typer.Option(help="Who runs Triton: this command, Docker, or somebody else (--url). [default: embedded]"),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    http_port: Annotated[int | None, typer.Option(help="0 takes a free one. [default: 8000]")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="0 takes a free one. [default: 8001]")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="0 takes a free one. [default: 8002]")] = None,
    control_metrics_port: Annotated[
        int | None, typer.Option(help="Of policyctl's own metrics; 0 takes a free one. [default: 8003]")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Pass on Triton's informational lines.")] = False,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
) -> None:
    """Run Triton on the repository until Ctrl-C or SIGTERM.

    Every alias is verified, loaded and certified by its golden set before the
    server is announced, and asked once a second afterwards. What does not
    answer, or answers wrongly, is loaded again, and the server started again if
    need be. Triton's metrics and policyctl's own are at two ports, /metrics.

    The engine embedded is the Triton of the nvidia-pytriton wheel; docker runs
    NVIDIA's image (POLICYCTL_DOCKER__IMAGE and others); external looks after a
    Triton that somebody else runs on the same repository, and waits for it
    where it is silent. See docs/containers.md.

    Settings files are looked at once a second, and at once on SIGHUP: what has
    changed and is whole is taken over without touching a request.

    Examples:

        policyctl serve

        policyctl serve --http-port 9000 --grpc-port 9001 --metrics-port 9002

        policyctl --profile production serve

        policyctl serve --engine external --url 127.0.0.1:8001
    """
    from policyctl.services.serve import serve as service

    given = {
        "host": host,
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "control_metrics_port": control_metrics_port,
    }
    output = Output()
    reading = options.read_layers(repository, url, server={"engine": engine, **given})
    for words in reading.warnings:
        output.say(f"WARNING: {words}.")
    service(options.control_of(options.here(reading), output), verbose=verbose, reading=reading)


def doctor(
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check whether this machine can run the server (its engine, as the settings say). Exits with 8 if not.

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


def hardware(
    runtimes: Annotated[
        bool, typer.Option(help="Ask OpenVINO, ONNX Runtime and torch what they make of it; takes seconds.")
    ] = True,
    as_json: options.JsonOption = False,
) -> None:
    """Show what this machine is, what to set on it and why, and its fingerprint.

    Results of `policyctl bench` are kept by that fingerprint. `policyctl serve`
    starts from the same facts.

    Examples:

        policyctl hardware

        policyctl hardware --no-runtimes --json
    """
    from policyctl.services.hardware import advise

    output = Output(as_json)
    found = advise(ask_runtimes=runtimes)
    if as_json:
        output.data(found.to_json())
        return
    output.table(None, "This machine", ("what", "found"), found.hardware.rows())
    if found.runtimes:
        rows = [(name, _runtime(facts)) for name, facts in found.runtimes.items()]
        output.table(None, "Runtimes", ("runtime", "what it says"), rows)
    output.table(
        None,
        "Recommended",
        ("set", "to", "why", "rests on", "worth comparing"),
        [
            (r.setting, f"{r.value} (default)" if r.is_default else r.value, r.reason, r.basis, ", ".join(r.candidates))
            for r in found.recommendations
        ],
    )


def _runtime(facts: object) -> str:
    return "not installed" if facts is None else json.dumps(facts, ensure_ascii=False)
