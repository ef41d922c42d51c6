"""Commands that look: status, history, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import IntegrityError, ServerError, UsageError

if TYPE_CHECKING:
    from policyctl.services.control import Control
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
    """Show what is published, what each alias or pin names, what really answers, and what it costs.

    Below stands what is being switched, what conflicts (aliases whose clients
    cannot ask each other's releases), and what is left of memory.

    Examples:

        policyctl status

        policyctl status walker --json
    """
    output = Output(as_json)
    if (remote := options.remote(output, repository=repository, url=url)) is not None:
        found = remote.status(model=model)
    else:
        from policyctl.services import status as service

        found = service.status(options.control_of(options.read_settings(repository, url), output), model=model)
    if as_json:
        output.data(found.to_json())
    else:
        output.data(None, words=f"Repository {found.repository}\nServer     {_server(found)}")
        output.table(
            None,
            "Aliases",
            ("model", "alias", "release", "slot", "format", "since", "answers", "served as", "memory"),
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
                    "-" if a.memory_bytes is None else f"{a.memory_bytes / (1 << 20):.0f} MiB",
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
                    ", ".join(r["aliases"]) if not r["collected"] else f"(collected {r['collected'][:10]})",
                )
                for r in found.releases
            ],
        )
        for note in found.notes:
            output.data(None, words=f"{note.about.capitalize()}: {note.words}")
    if found.scrub is not None:
        output.say(f"Scrub: {found.scrub.words}")
    if found.writer:
        output.say(f"At work: {found.writer}")
    elif found.unfinished:
        output.say(f"UNFINISHED: {found.unfinished}. The next promote, rollback or serve finishes or reverts it.")
    if check and not found.healthy:
        raise ServerError("not every alias is answered by the release that it names", remedy="See the table above.")


def history(
    model: options.OptionalModel = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Only the last N.", min=1)] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every line, show what that proves; exit with 3 if one was changed.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option("--head", help="With --verify: a head that was noted earlier, which must still be there."),
    ] = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show the journal: who did what, when, why, and how it ended. Its chain is checked.

    With --verify every line that was edited, removed or moved is named. A chain
    cannot show that lines were cut off its end: note the head that is printed,
    and give it with --head the next time.

    Examples:

        policyctl history walker

        policyctl history --limit 20 --json

        policyctl history --verify
    """
    output = Output(as_json)
    if verify or head is not None:
        if model is not None or limit is not None:
            raise UsageError("--verify is about the whole journal", remedy="Leave out MODEL and --limit.")
        _prove(options.control_of(options.read_settings(repository), output), output, head)
        return
    if (remote := options.remote(output, repository=repository)) is not None:
        records = remote.history(model=model, limit=limit)
    else:
        from policyctl.services import status as service

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


def _prove(control: Control, output: Output, head: str | None) -> None:
    from policyctl.services.journal import prove

    found = prove(control, expected_head=head)
    output.data(found.to_json(), words=found.words)
    if not found.intact:
        error = IntegrityError(f"{found.path}: {found.breaks[0].words}", remedy=found.breaks[0].remedy)
        if output.as_json:
            raise typer.Exit(error.exit_code)
        raise error


def verify(
    model: options.OptionalModel = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Write every file, expected and found, to FILE.html, FILE.md or FILE.json."),
    ] = None,
    files: Annotated[bool, typer.Option("--files", help="Show every file of every release.")] = False,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Hold every file of the repository against the journal. Exits with 3 if one differs.

    Examples:

        policyctl verify

        policyctl verify walker --files

        policyctl verify --report integrity.html --json
    """
    from policyctl.services import integrity_report as service

    output = Output(as_json)
    if report is not None:
        service.check_kind(report)
    found = service.report(options.control_of(options.read_settings(repository), output), model=model)
    findings = found.examination.findings
    if report is not None:
        service.write(found, report)
        output.say(f"Report: {report}")
    if files:
        output.table(found.to_json(), "Integrity of every file", service.COLUMNS, found.rows())
    else:
        output.table(
            {"intact": found.intact, "findings": [f.to_json() for f in findings]},
            "Integrity",
            ("what", "verdict", "found"),
            [(f.what, "intact" if f.intact else "NOT INTACT", f.detail) for f in findings],
        )
    bad = [f for f in findings if not f.intact]
    if bad:
        error = IntegrityError(
            f"{len(bad)} of {len(findings)} are not as published: {bad[0].what}: {bad[0].detail}",
            remedy="See what can be rebuilt: policyctl repair --dry-run. Or restore the files from where they were"
            " published, or roll back to an intact release.",
        )
        if as_json:
            raise typer.Exit(error.exit_code)
        raise error


def _server(found: Status) -> str:
    if not found.server_live:
        return "none. Start one: policyctl serve"
    engine = f"{found.engine}, " * bool(found.engine)
    backend = f", OpenVINO backend {found.openvino_backend}" * bool(found.openvino_backend)
    return f"{found.server} ({engine}answers){backend}"


def _gates(gates: dict[str, str]) -> str:
    return ", ".join(f"{name} {verdict}" for name, verdict in gates.items()) or "not run"


_WORDS: Final = {
    "published": "{release} as slot {slot}",
    "gate": "{release}: {gate} {verdict}",
    "measured": "{release}: {what}",
    "signed": "{release} by {name} ({method})",
    "collected": "{release}: its files were removed from slot {slot}",
    "restored": "{release}: its files are back in slot {slot}",
    "repaired": "{what}: {done}",
}
"""Kinds of records that are told by a sentence; the others need a decision."""


def _what(record: dict[str, object]) -> str:
    kind = str(record["kind"])
    if words := _WORDS.get(kind):
        return words.format(**record)
    match kind:
        case "certified":
            return f"{record['release']} on server {record['server'] or '(not ours)'}"
        case "tuned":
            return "serving options forgotten" if record["options"] is None else f"serving options {record['options']}"
        case "intent" | "switching" | "outcome":
            return _move(kind, record)
    return f"{record.get('release') or ''}: {kind}"


def _move(kind: str, record: dict[str, object]) -> str:
    alias, target = record["alias"], record["to"]
    if record.get("move_kind") == "removal":
        ends = {"intent": f", which names {record.get('from')}", "outcome": f": {record.get('result')}"}
        return f"removal of {alias}{ends.get(kind, '')}"
    match kind:
        case "switching":
            return f"{alias} to {target}"
        case "outcome":
            return f"{record['move_kind']} of {alias} to {target}: {record['result']}"
    return f"{record['move_kind']} of {alias} from {record['from'] or 'nothing'} to {target}"
