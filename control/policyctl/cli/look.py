"""Commands that look: status, history, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import IntegrityError, ServerError

if TYPE_CHECKING:
    from policyctl.services.status import Status


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(status)
    app.command()(history)
    app.command()(verify)


def status(
    model: options.OptionalModel = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 6 unless every alias answers as named.")] = False,
    repository: options.RepositoryOption = None,
    url: options.UrlOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show what is published, what each alias names, and what really answers.

    Examples:

        policyctl status

        policyctl status walker --json
    """
    from policyctl.services import status as service

    output = Output(as_json)
    found = service.status(options.control_of(options.read_settings(repository, url), output), model=model)
    if as_json:
        output.data(found.to_json())
    else:
        output.data(None, words=f"Repository {found.repository}\nServer     {_server(found)}")
        output.table(
            None,
            "Aliases",
            ("model", "alias", "release", "slot", "format", "since", "answers", "served as"),
            [
                (
                    a.model,
                    a.alias,
                    a.release,
                    a.slot,
                    a.format,
                    a.since[:19],
                    a.answers or f"NOTHING: {a.detail}",
                    a.served,
                )
                for a in found.aliases
            ],
        )
        output.table(
            None,
            "Releases",
            ("model", "release", "slot", "published", "by", "gates", "aliases"),
            [
                (
                    r["model"],
                    r["release"],
                    r["slot"],
                    r["published"][:19],
                    r["by"],
                    _gates(r["gates"]),
                    ", ".join(r["aliases"]),
                )
                for r in found.releases
            ],
        )
    if found.writer:
        output.say(f"At work: {found.writer}")
    elif found.unfinished:
        output.say(f"UNFINISHED: {found.unfinished}. The next promote, rollback or serve finishes or reverts it.")
    if check and not found.healthy:
        raise ServerError("not every alias is answered by the release that it names", remedy="See the table above.")


def history(
    model: options.OptionalModel = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Only the last N.", min=1)] = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show the journal: who did what, when, why, and how it ended. Its chain is checked.

    Examples:

        policyctl history walker

        policyctl history --limit 20 --json
    """
    from policyctl.services import status as service

    output = Output(as_json)
    records = service.history(options.control_of(options.read_settings(repository), output), model=model)
    shown = records[-limit:] if limit else records
    output.table(
        list(shown),
        "Journal",
        ("seq", "time", "actor", "record", "model", "what", "reason"),
        [
            (r["seq"], r["time"][:23], r["actor"], r["kind"], r.get("model"), _what(r), r.get("reason") or "")
            for r in shown
        ],
    )


def verify(
    model: options.OptionalModel = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Hold every file of the repository against the journal. Exits with 3 if one differs.

    Examples:

        policyctl verify

        policyctl verify walker --json
    """
    from policyctl.services import verify as service

    output = Output(as_json)
    findings = service.verify(options.control_of(options.read_settings(repository), output), model=model)
    bad = [f for f in findings if not f.intact]
    output.table(
        {"intact": not bad, "findings": [f.to_json() for f in findings]},
        "Integrity",
        ("what", "verdict", "found"),
        [(f.what, "intact" if f.intact else "NOT INTACT", f.detail) for f in findings],
    )
    if bad:
        error = IntegrityError(
            f"{len(bad)} of {len(findings)} are not as published: {bad[0].what}: {bad[0].detail}",
            remedy="Restore the files from where they were published, or roll back to an intact release.",
        )
        if as_json:
            raise typer.Exit(error.exit_code)
        raise error


def _server(found: Status) -> str:
    if not found.server_live:
        return "none. Start one: policyctl serve"
    return f"{found.server} (answers)" + (f", OpenVINO backend {found.openvino_backend}" * bool(found.openvino_backend))


def _gates(gates: dict[str, str]) -> str:
    return ", ".join(f"{name} {verdict}" for name, verdict in gates.items()) or "not run"


def _what(record: dict[str, object]) -> str:
    match record["kind"]:
        case "published":
            return f"{record['release']} as slot {record['slot']}"
        case "gate":
            return f"{record['release']}: {record['gate']} {record['verdict']}"
        case "measured":
            return f"{record['release']}: {record['what']}"
        case "certified":
            return f"{record['release']} on server {record['server'] or '(not ours)'}"
        case "outcome":
            return f"{record['move_kind']} of {record['alias']} to {record['to']}: {record['result']}"
        case "switching":
            return f"{record['alias']} to {record['to']}"
        case _:
            return f"{record['move_kind']} of {record['alias']} from {record['from']} to {record['to']}"
