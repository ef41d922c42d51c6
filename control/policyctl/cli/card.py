"""Commands about model cards: card init, check, show, cite, migrate, bom."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from policyctl.card.check import Checked

_card = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Model cards: what a release says of itself, and what was measured of it.

The card of a release is published with it and never changes. What is measured
later is evidence that the journal names; show puts both together.

Examples:

    policyctl card check build/walker

    policyctl card show walker 1.0.0 --format md
""",
)

Folder = Annotated[Path, typer.Argument(help="A folder that export wrote.", show_default=False)]


class Form(StrEnum):
    """What `card show` writes."""

    YAML = "yaml"
    MD = "md"
    HTML = "html"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(_card, name="card")


@_card.command()
def init(
    folder: Folder,
    archive: Annotated[
        Path | None,
        typer.Option("--from", help="The Stable-Baselines3 .zip that was exported; nothing in it is unpickled."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where there is a card: keeps what it states, not its comments.")
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write a card to fill in: what follows from the export is there, examples stand for the rest.

    Export writes one already; this is for a folder without, or to write anew
    what is derived.

    Examples:

        policyctl card init build/walker --from ppo.zip

        policyctl card init build/walker --force --dry-run
    """
    from policyctl.card.check import check
    from policyctl.services import cards as service

    out = Output(as_json, quiet)
    text = service.init(folder, archive=archive, force=force)
    path = None if dry_run else service.write(folder, text)
    missing = check(text.encode()).missing
    out.data(
        {"card": None if path is None else str(path), "dry_run": dry_run, "missing": list(missing), "text": text},
        words=text.rstrip() if path is None else f"Wrote {path}.",
    )
    if missing:
        out.say(f"Still to be told: {', '.join(missing)}.")


@_card.command()
def check(
    target: Annotated[str, typer.Argument(help="A folder, a card's file, or a model.", show_default=False)],
    release: Annotated[
        str | None, typer.Argument(help="Of the model: 1.2.3, ^1.2, latest or an alias.", show_default=False)
    ] = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Say everything that is wrong with a card, by field. Exits with 2 if something is.

    A card beside an export is held against its files too: contract, parity,
    golden set and the evidence of every figure. publish refuses by the same rules.

    Examples:

        policyctl card check build/walker

        policyctl card check model_card.yaml --json

        policyctl card check walker 1.0.0
    """
    from policyctl.card.problems import require
    from policyctl.services import card_check as service

    out = Output(as_json, quiet)
    path = Path(target)
    if release is not None:
        control = options.control_of(options.read_settings(repository), out)
        what, found = f"{target} {release}", service.check_release(control, model=target, release=release)
    elif path.is_dir():
        what, found = str(path), service.check_folder(path)
    else:
        what, found = str(path), service.check_file(path)
    _show(out, what, found)
    if found.problems:
        if as_json:
            raise typer.Exit(UsageError.exit_code)
        require(found.problems, what)


def _show(out: Output, what: str, found: Checked) -> None:
    document = {
        "valid": not found.problems,
        "schema_version": found.version,
        "problems": [problem.to_json() for problem in found.problems],
        "missing": list(found.missing),
    }
    if not found.problems:
        out.data(document, words=f"{what}: nothing is wrong (schema {found.version}).")
    else:
        rows = [(p.line or "-", p.path, p.found or "-", p.expected) for p in found.problems]
        out.table(document, f"Model card of {what}", ("line", "field", "found", "expected"), rows)
    if found.missing:
        out.say(f"It does not tell: {', '.join(found.missing)}.")


@_card.command()
def show(
    model: options.Model,
    release: options.Release,
    form: Annotated[
        Form, typer.Option("--format", "-f", help="yaml, md (for Hugging Face), html or json.")
    ] = Form.YAML,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it here instead of stdout.")] = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show the card of a release with everything that was measured of it since, each figure with its evidence.

    Examples:

        policyctl card show walker 1.0.0

        policyctl card show walker 1.0.0 --format md -o README.md

        policyctl card show walker 1.0.0 --format html -o walker.html
    """
    from policyctl.services import cards as service
    from policyctl_benchmarks import card_report

    out = Output(as_json, quiet)
    card = service.full(options.control_of(options.read_settings(repository), out), model=model, release=release)
    for words in card.release.problems if card.release else []:
        out.say(f"Caution: {words}.")
    match Form.JSON if as_json else form:
        case Form.JSON:
            import json

            text = json.dumps(card.to_json(), indent=1) + "\n"
        case Form.MD:
            text = card_report.markdown(card)
        case Form.HTML:
            text = card_report.page(card)
        case _:
            text = card_report.as_yaml(card)
    _write(out, text, output)


@_card.command()
def cite(
    folder: Folder,
    model: options.Model,
    release: options.Release,
    dry_run: options.DryRun = False,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write into an export's card what was measured of a release with the very same artifacts.

    So a release can be published with figures: publish a pre-release, measure
    it, cite it, publish. The evidence is put beside the card.

    Examples:

        policyctl card cite build/walker walker 1.0.0-rc.1

        policyctl card cite build/walker walker 1.0.0-rc.1 --dry-run --json
    """
    from policyctl.services.card_citing import cite as service

    out = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository), out)
    done = service(control, folder, model=model, release=release, dry_run=dry_run)
    told = ", ".join(f"{count} of {section}" for section, count in done.figures.items() if count)
    verb = "Would write" if dry_run else "Wrote"
    out.data(done.to_json(), words=f"{verb} into {done.card}: {told}; evidence: {', '.join(done.evidence)}")


@_card.command()
def migrate(
    card: Annotated[Path, typer.Argument(help="A model_card.yaml, or the folder that it is in.", show_default=False)],
    to: Annotated[int, typer.Option("--to", help="Which schema: 2, or back to 1.")] = 2,
    dry_run: options.DryRun = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Carry a card to another schema version. Nothing that it says is lost, and no comment.

    Cards of published releases are not touched: they are migrated as they are read.

    Examples:

        policyctl card migrate build/walker --dry-run

        policyctl card migrate model_card.yaml --to 1
    """
    from policyctl.card.rewriting import migrate as rewritten
    from policyctl.domain.artifacts import CARD_FILE
    from policyctl.services import cards as service

    out = Output(as_json, quiet)
    path = card / CARD_FILE if card.is_dir() else card
    before = service.read(path)
    text = rewritten(before, to=to)
    changed = text.encode() != before
    if changed and not dry_run:
        service.replace(path, text)
    words = f"{path} is of schema {to} already." if not changed else f"{path} is of schema {to} now."
    document = {"card": str(path), "schema_version": to, "changed": changed, "dry_run": dry_run, "text": text}
    out.data(document, words=text.rstrip() if dry_run and changed else words)


@_card.command()
def bom(
    model: options.Model,
    release: options.Release,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it here instead of stdout.")] = None,
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Write the bill of materials of a release: CycloneDX 1.6, which is JSON with or without --json.

    Examples:

        policyctl card bom walker 1.0.0 -o walker.cdx.json
    """
    from policyctl.services import cards as service

    out = Output(as_json, quiet)
    control = options.control_of(options.read_settings(repository), out)
    _write(out, service.bill_of_materials(control, model=model, release=release), output)


def _write(out: Output, text: str, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    from policyctl.services import cards as service

    service.replace(path, text)
    out.say(f"Wrote {path}.")
