"""Commands that show what a server does: metrics, logs, log-level."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from policyctl.cli import completion, options
from policyctl.cli.call import Call
from policyctl.domain.log_event import LogFilter, LogLevel
from policyctl.errors import UsageError

_SHOWN: Final = ("move", "request_id", "operation", "served", "release", "slot", "source")


@options.command("repository")
def metrics(
    call: Call,
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="Show every metric with its labels and meaning instead.")
    ] = False,
) -> None:
    """Print once what `policyctl serve` exports to Prometheus.

    Where no server runs, it is what the journal alone says: what aliases name,
    moves and gate verdicts.

    Examples:
        policyctl metrics
        policyctl metrics --json
        policyctl metrics --catalogue
    """
    if catalogue:
        from policyctl.domain.metrics import CATALOGUE

        families = CATALOGUE.values()
        call.table(
            [{"name": f.name, "type": f.kind.value, "labels": list(f.labels), "help": f.help} for f in families],
            "Metrics of policyctl serve",
            ("name", "type", "labels", "meaning"),
            [(f.name, f.kind.value, ", ".join(f.labels), f.help) for f in families],
        )
        return
    from policyctl.adapters.exporter import read_text
    from policyctl.services.supervise.metrics import report

    source, text = report(call.control())
    document = {"source": source or None, "families": read_text(text)} if call.as_json else None
    call.data(document, words=text.rstrip())
    if not source:
        call.say("No server runs here: this is what the journal alone says.")


@options.command("repository")
def logs(
    call: Call,
    request_id: Annotated[str, typer.Option(metavar="ID", help="Only lines about this request of a client.")] = "",
    move: Annotated[str, typer.Option(metavar="ID", help="Only lines of this move, by its id in the journal.")] = "",
    operation: Annotated[str, typer.Option(metavar="ID", help="Only lines of this command or run of serve.")] = "",
    model: Annotated[
        str, typer.Option(help="Only this model, or this Triton model.", autocompletion=completion.models)
    ] = "",
    level: Annotated[LogLevel, typer.Option("--level", "-l", help="Only lines that matter this much.")] = (
        LogLevel.DEBUG
    ),
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only from then on: 10m, 2h, or 2026-11-20T10:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Only the last N; 0 for all.", min=0)] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then go on with new lines until Ctrl-C.")] = False,
) -> None:
    """Show what the control plane and Triton logged, in order of time.

    With --json it is one list; with --follow too, an object a line.

    Examples:
        policyctl logs --level warning --since 2h
        policyctl logs --request-id 8f14e45fceea167a5a36dedd4bea2543
        policyctl logs --move 1f0c --json
        policyctl logs --model walker --follow
    """
    from policyctl.services.logs import reading as log_reading

    control = call.control()
    start = None if since is None else log_reading.since(since, now=datetime.now(UTC))
    wanted = LogFilter(request_id, move, operation, model, level, start)
    found, more = log_reading.read(control, wanted, limit=limit or None)
    if more:
        call.say(f"Only the last {limit} lines; --limit 0 shows all.")
    if call.as_json and not follow:
        call.data(found)
    else:
        for each in found:
            _show(call, each)
    if not found and not follow:
        call.say("No such line was logged.")
    if follow:
        for each in log_reading.followed(control, wanted, threading.Event()):
            _show(call, each)


def _show(call: Call, found: dict[str, Any]) -> None:
    if call.as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    ids = " ".join(f"{name}={found[name]}" for name in _SHOWN if found.get(name))
    line = f"{found['time'][:23]}Z {found['level'].upper():<7} {found.get('logger', '')}: {found['event']}  {ids}"
    typer.echo("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line.rstrip()))


@options.command("repository")
def log_level(
    call: Call,
    level: Annotated[LogLevel | None, typer.Argument(help="From which level on to log.")] = None,
    triton: Annotated[bool, typer.Option("--triton", help="Triton's instead of the control plane's.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Follow the settings again, for both.")] = False,
) -> None:
    """Show or change how much the running server logs.

    The running server follows within a second. Triton has one more level than
    the others, which its level debug switches on, and it can be much.

    Examples:
        policyctl log-level
        policyctl log-level debug
        policyctl log-level warning --triton
        policyctl log-level --reset
    """
    from policyctl.services.logs import levels as log_levels

    control = call.control()
    if reset and level is not None:
        raise UsageError("--reset takes no level", remedy="Leave one of them call.")
    if triton and level is None:
        raise UsageError("--triton needs a level", remedy="For example: policyctl log-level debug --triton")
    if reset:
        found = log_levels.reset(control)
    elif level is not None:
        found = log_levels.change(control, level=None if triton else level, triton=level if triton else None)
    else:
        found = log_levels.wanted(control)
    call.data(found, words=f"control plane {found.control}, Triton {found.triton}")
