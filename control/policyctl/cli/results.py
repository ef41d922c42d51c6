"""Commands on results that `policyctl bench` kept: results compare, history."""

from __future__ import annotations

from typing import Annotated

import typer

from policyctl.cli import completion, options
from policyctl.cli.call import Call
from policyctl.domain.instants import utc_text
from policyctl.domain.protocol import Protocol

group = typer.Typer(
    help="""Compare results that bench kept, and follow them over time.

    Results are kept in the repository, by the fingerprint of the machine.

    Examples:
        policyctl results compare walker@1.0.0 walker@1.1.0
        policyctl results history walker
    """,
)


@group.command()
@options.command("repository")
def compare(
    call: Call,
    one: Annotated[
        str,
        typer.Argument(
            help="A result's id or its beginning, its file, or MODEL@RELEASE.", autocompletion=completion.results
        ),
    ],
    other: Annotated[
        str, typer.Argument(help="The other result, named in the same way.", autocompletion=completion.results)
    ],
    force: Annotated[bool, typer.Option("--force", help="Also where the machines differ.")] = False,
    report: options.Report = None,
    markdown: options.Markdown = None,
) -> None:
    """Compare two kept results. Only validate gives a verdict.

    MODEL@RELEASE is the latest result of that release on this machine; RELEASE
    may be what selects one: walker@^1.1, walker@latest, walker@production.

    Examples:
        policyctl results compare walker@1.0.0 walker@1.1.0
        policyctl results compare 3f9a 81c2 --report both.html
    """
    from policyctl.measuring import report as reports
    from policyctl.measuring.comparison import LIMITS
    from policyctl.services.measure import results as service

    control = call.control()
    call.require_writable(report, markdown)
    found = service.compare(control, one, other, force=force)
    call.table(
        found,
        f"one: {reports.title(found.one)}; other: {reports.title(found.other)}",
        reports.COMPARISON_COLUMNS,
        reports.comparison_rows(found),
    )
    for words in found.cautions:
        call.say(f"Caution: {words}.")
    call.say(LIMITS)
    call.write(report, lambda: reports.comparison_page(found))
    call.write(markdown, lambda: reports.comparison_markdown(found))


@group.command()
@options.command("repository")
def history(
    call: Call,
    model: options.Model,
    metric: Annotated[str, typer.Option(help="p50_us, p99_us or throughput_per_s.")] = "p50_us",
    protocol: Annotated[Protocol, typer.Option(help="Of the points to follow.")] = Protocol.GRPC,
    batch: Annotated[int, typer.Option("--batch", "-b", help="Of the points to follow.", min=1)] = 1,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", help="Of the points to follow.", min=1)] = 1,
    machine: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Fingerprint of another machine. [default: this one's]")
    ] = None,
    report: options.Report = None,
) -> None:
    """Follow one metric over the kept results of a model, and say where it changed for good.

    Examples:
        policyctl results history walker
        policyctl results history walker --metric p99_us --concurrency 8 --json
    """
    from policyctl.measuring import report as reports
    from policyctl.services.measure import results as service

    control = call.control()
    call.require_writable(report)
    found = service.history(
        control,
        model=model,
        metric=metric,
        protocol=protocol,
        batch=batch,
        concurrency=concurrency,
        fingerprint=machine,
    )
    changes = {change.index: change for change in found.changes}
    title = f"{model}, {metric} at {found.point.describe()}, machine {found.fingerprint}"
    columns = ("time", "id", "release", "format", metric, "change")
    rows = [
        (
            utc_text(result.time),
            result.id,
            result.release,
            result.format,
            f"{value:.0f}",
            f"{changes[index].ratio:.2f} times (p {changes[index].p_value:.3f})" if index in changes else "",
        )
        for index, (result, value) in enumerate(zip(found.results, found.values, strict=True))
    ]
    call.table(found, title, columns, rows)
    if not found.enough:
        call.say("Too few results to tell a change: five before and five after it are needed.")
    table = (columns, rows)
    call.write(report, lambda: reports.history_page(title, found.results, found.values, found.changes, metric, table))
