"""Commands that show what a server does: metrics."""

from __future__ import annotations

from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(metrics)


def metrics(
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="Show every metric with its labels and meaning instead.")
    ] = False,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Print once what `policyctl serve` exports to Prometheus, in its text format.

    Where no server runs, it is what the journal alone says: what aliases name,
    moves and gate verdicts.

    Examples:

        policyctl metrics

        policyctl metrics --json

        policyctl metrics --catalogue
    """
    output = Output(as_json)
    if catalogue:
        from policyctl.domain.metrics import CATALOGUE

        families = CATALOGUE.values()
        output.table(
            [{"name": f.name, "type": f.kind.value, "labels": list(f.labels), "help": f.help} for f in families],
            "Metrics of policyctl serve",
            ("name", "type", "labels", "meaning"),
            [(f.name, f.kind.value, ", ".join(f.labels), f.help) for f in families],
        )
        return
    from policyctl.services.metrics_report import report

    found = report(options.control_of(options.read_settings(repository), output))
    output.data(found.to_json() if as_json else None, words=found.text.rstrip())
    if not found.source:
        output.say("No server runs here: this is what the journal alone says.")
