"""Commands that look, and say by their exit code what they saw: status, verify, probe."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import completion, options
from policyctl.cli.call import Call
from policyctl.domain.instants import age_text
from policyctl.domain.verdict import Verdict
from policyctl.errors import GateError, IntegrityError, ServerError, UsageError

if TYPE_CHECKING:
    from policyctl.domain.fleet import FleetStatus
    from policyctl.services.show.status import Status


@options.command("repository", "url")
def status(
    call: Call,
    model: options.OptionalModel = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 6 unless every alias answers as named.")] = False,
) -> None:
    """Show what is published, what each alias names, and what answers.

    A pin is an alias too. Below stands what is being switched, what conflicts (aliases whose clients
    cannot ask each other's releases), and what is left of memory.

    Examples:
        policyctl status
        policyctl status walker --json
    """
    now = datetime.now(UTC)
    if (remote := call.elsewhere()) is not None:
        from policyctl.domain.fleet import FleetStatus

        found = remote.status(model=model)
        if isinstance(found, FleetStatus):
            _show_fleet(call, found, check=check)
            return
    else:
        from policyctl.services.show import status as service

        found = service.status(call.control(), model=model)
    if call.as_json:
        call.data(found)
    else:
        _print_tables(call, found, now)
    if found.scrub is not None:
        call.say(f"Scrub: {found.scrub.words}")
    if found.writer:
        call.say(f"At work: {found.writer}")
    elif found.unfinished:
        call.say(f"UNFINISHED: {found.unfinished}. The next promote, rollback or serve finishes or reverts it.")
    if call.url and not found.server_live:
        call.end_with(ServerError(f"no server answers at {call.url}", remedy="Is it running? Is the address right?"))
    if check and not found.healthy:
        raise ServerError("not every alias is answered by the release that it names", remedy="See the table above.")


def _show_fleet(call: Call, found: FleetStatus, *, check: bool) -> None:
    call.table(found, "Fleet", found.COLUMNS, found.rows())
    if not found.aliases:
        call.say("No alias names a release yet. Promote one: policyctl --store ... promote MODEL RELEASE")
    if all(node.stopped for node in found.nodes):
        call.say(f"No node follows {found.store}. Start one: policyctl --store {found.store} serve")
    for words in found.open:
        call.say(f"Being prepared: {words}")
    for node in found.nodes:
        for problem in node.problems.values():
            call.say(f"{node.node}: {problem}")
    if check and not found.healthy:
        call.end_with(ServerError("not every node serves what every alias names", remedy="See the table above."))


@options.command("repository")
def verify(
    call: Call,
    model: options.OptionalModel = None,
    report: Annotated[
        Path | None, typer.Option(help="Write every file, expected and found, to FILE.html, FILE.md or FILE.json.")
    ] = None,
    files: Annotated[bool, typer.Option("--files", help="Show every file of every release.")] = False,
) -> None:
    """Compare every file of the repository with the journal. Exits with 3 if one differs.

    Examples:
        policyctl verify
        policyctl verify walker --files
        policyctl verify --report integrity.html --json
    """
    from policyctl.services.integrity import report as service

    if report is not None:
        service.check_kind(report)
    found = service.report(call.control(), model=model)
    findings = found.examination.findings
    if report is not None:
        service.write(found, report)
        call.say(f"Report: {report}")
    if files:
        call.table(found, "Integrity of every file", service.COLUMNS, found.rows())
    else:
        call.table(
            {"intact": found.intact, "findings": findings},
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
        call.end_with(error)


@options.command("repository", "url")
def probe(
    call: Call,
    model: options.OptionalModel = None,
    alias: Annotated[
        str | None,
        typer.Option("--alias", "-a", help="Only this alias, or pinned number.", autocompletion=completion.aliases),
    ] = None,
    required: Annotated[
        bool, typer.Option("--require", help="Exit with 6 also where no alias names anything yet.")
    ] = False,
) -> None:
    """Ask each alias for a golden action; exit with 0 only if every one gives it.

    For health checks and scripts. Exits with 6 where no server or an alias does
    not answer, with 4 where one answers otherwise than its release was published.

    Examples:
        policyctl probe
        policyctl probe walker --alias production --json
    """
    from policyctl.services.golden_questions import probe as service

    found = service(call.control(), model=model, alias=alias)
    if not found:
        if alias is not None:
            raise UsageError(f"no model has an alias {alias!r}", remedy="See: policyctl status")
        if required:
            raise ServerError(
                "no alias names anything yet", remedy="Promote a release: policyctl promote MODEL RELEASE"
            )
    rows = [(p.model, p.alias, p.release, p.verdict.value, p.duration_ms, p.detail) for p in found]
    if call.as_json or not call.quiet:
        call.table(
            {"aliases": found, "healthy": all(p.verdict is Verdict.PASSED for p in found)},
            "Golden actions",
            ("model", "alias", "release", "verdict", "took ms", "detail"),
            rows,
        )
    # A wrong answer is worse news than none.
    for verdict, error in ((Verdict.FAILED, GateError), (Verdict.ERROR, ServerError)):
        bad = [p for p in found if p.verdict is verdict]
        if bad:
            names = ", ".join(p.served for p in bad)
            what = "answers wrongly" if error is GateError else "does not answer"
            call.end_with(error(f"{names} {what}: {bad[0].detail}", remedy="See: policyctl status, policyctl verify"))


def _print_tables(call: Call, found: Status, now: datetime) -> None:
    """For people: where it is, the aliases, the releases, and what to know of them."""
    call.data(None, words=f"Repository {found.repository}\nServer     {_server(found)}")
    call.table(
        None,
        "Aliases",
        ("model", "alias", "release", "format", "since", "answers", "served as", "memory"),
        [
            (
                a.model,
                a.alias,
                a.release,
                a.format,
                age_text(a.since, now=now),
                a.answers or (f"NOTHING: {a.detail}" if found.server_live else "NOTHING"),
                a.served,
                "-" if a.memory_bytes is None else f"{a.memory_bytes / (1 << 20):.0f} MiB",
            )
            for a in found.aliases
        ],
    )
    call.table(
        None,
        "Releases",
        ("model", "release", "slot", "published", "by", "gates", "aliases"),
        [
            (
                r["model"],
                r["release"],
                r["slot"],
                age_text(r["published"], now=now),
                r["by"],
                _gates(r["gates"]),
                ", ".join(r["aliases"]) if not r["collected"] else f"(collected {r['collected'][:10]})",
            )
            for r in found.releases
        ],
    )
    for note in found.notes:
        call.data(None, words=f"{note.about.capitalize()}: {note.words}")


def _server(found: Status) -> str:
    if not found.server_live and found.server == "none":
        return "none. Start one: policyctl serve"
    if not found.server_live:
        return next((a.detail for a in found.aliases if a.detail), f"{found.server} does not answer")
    engine = f"{found.engine}, " * bool(found.engine)
    backend = f", OpenVINO backend {found.openvino_backend}" * bool(found.openvino_backend)
    return f"{found.server} ({engine}answers){backend}"


def _gates(gates: dict[str, str]) -> str:
    bad = [f"{name} {verdict}" for name, verdict in gates.items() if verdict != Verdict.PASSED]
    passed = [name for name, verdict in gates.items() if verdict == Verdict.PASSED]
    return "; ".join([*bad, f"passed {', '.join(passed)}"] if passed else bad) or "not run"
