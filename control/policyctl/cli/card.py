"""Commands about model cards: card init, check, show, cite, bom."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.call import Call
from policyctl.domain.json_values import to_json
from policyctl.errors import UsageError

group = typer.Typer(
    help="""Model cards: what a release says of itself, and what was measured of it.

The card of a release is published with it and never changes. What is measured
later is evidence that the journal names; show puts both together.

Examples:
    policyctl card check build/walker
    policyctl card show walker 1.0.0 --format md
""",
)

Target = Annotated[Path | None, typer.Option("--output", "-o", help="Write it here instead of stdout.")]


class Form(StrEnum):
    """What `card show` writes."""

    YAML = "yaml"
    MD = "md"
    HTML = "html"
    JSON = "json"


@group.command()
@options.command()
def init(
    call: Call,
    folder: options.ExportFolder,
    archive: Annotated[
        Path | None,
        typer.Option("--from", help="The Stable-Baselines3 .zip that was exported; nothing in it is unpickled."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where there is a card: keeps what it states, not its comments.")
    ] = False,
    dry_run: options.DryRun = False,
) -> None:
    """Write a card to fill in: what follows from the export is there, examples stand for the rest.

    Export writes one already; this is for a folder without, or to derive
    its sections again.

    Examples:
        policyctl card init build/walker --from ppo.zip
        policyctl card init build/walker --force --dry-run
    """
    from policyctl.adapters.files import write_atomically
    from policyctl.card.check import check
    from policyctl.domain.artifacts import CARD_FILE
    from policyctl.services.cards.draft import draft

    path = folder / CARD_FILE
    text = draft(folder, archive=archive, force=force)
    if not dry_run:
        write_atomically(path, text.encode())
    missing = check(text.encode()).missing
    call.data(
        {"card": None if dry_run else str(path), "dry_run": dry_run, "missing": list(missing), "text": text},
        words=text.rstrip() if dry_run else f"Wrote {path}.",
    )
    if missing:
        call.say(f"Still missing: {', '.join(missing)}.")


@group.command()
@options.command("repository")
def check(
    call: Call,
    target: Annotated[str, typer.Argument(help="A folder, a card's file, or a model.")],
    release: Annotated[str | None, typer.Argument(help="Of the model: 1.2.3, ^1.2, latest or an alias.")] = None,
) -> None:
    """Say everything that is wrong with a card, by field. Exits with 2 if something is.

    A card next to an export is held against its files too: contract, parity,
    golden set and the evidence of every figure. publish refuses by the same rules.

    Examples:
        policyctl card check build/walker
        policyctl card check model_card.yaml --json
        policyctl card check walker 1.0.0
    """
    from policyctl.card.reading import require
    from policyctl.card.schema import SCHEMA_VERSION
    from policyctl.services.cards import check as service

    path, what = Path(target), target
    if release is not None:
        control = call.control()
        what, checked = f"{target} {release}", service.check_release(control, model=target, release=release)
    else:
        checked = service.check_folder(path) if path.is_dir() else service.check_file(path)
    problems = checked.problems
    document = {"valid": not problems, "schema_version": SCHEMA_VERSION}
    document |= to_json({"problems": problems, "missing": checked.missing})
    if not problems:
        call.data(document, words=f"{what}: nothing is wrong (schema {SCHEMA_VERSION}).")
    else:
        rows = [(p.line or "-", p.path, p.found or "-", p.expected) for p in problems]
        call.table(document, f"Model card of {what}", ("line", "field", "found", "expected"), rows)
    if checked.missing:
        call.say(f"Missing: {', '.join(checked.missing)}.")
    if problems and call.as_json:
        raise typer.Exit(UsageError.exit_code)
    require(problems, what)


@group.command()
@options.command("repository")
def show(
    call: Call,
    model: options.Model,
    release: options.Release,
    form: Annotated[
        Form, typer.Option("--format", "-f", help="yaml, md (for Hugging Face), html or json.")
    ] = Form.YAML,
    output: Target = None,
) -> None:
    """Show the card of a release with everything that was measured of it since, each figure with its evidence.

    Examples:
        policyctl card show walker 1.0.0
        policyctl card show walker 1.0.0 --format md -o README.md
        policyctl card show walker 1.0.0 --format html -o walker.html
    """
    from policyctl.measuring import card_report
    from policyctl.services.cards import full_card as service

    card = service.full(call.control(), model=model, release=release)
    for words in card.release.problems if card.release else []:
        call.say(f"Caution: {words}.")
    render = {
        Form.JSON: lambda card: json.dumps(card.to_json(), indent=1) + "\n",
        Form.MD: card_report.markdown,
        Form.HTML: card_report.page,
        Form.YAML: card_report.as_yaml,
    }[Form.JSON if call.as_json else form]
    _write(call, render(card), output)


@group.command()
@options.command("repository")
def cite(
    call: Call,
    folder: options.ExportFolder,
    model: options.Model,
    release: options.Release,
    dry_run: options.DryRun = False,
) -> None:
    """Write into an export's card what was measured of a release with the very same artifacts.

    So a release can be published with figures: publish a pre-release, measure
    it, cite it, publish. The evidence is put next to the card.

    Examples:
        policyctl card cite build/walker walker 1.0.0-rc.1
        policyctl card cite build/walker walker 1.0.0-rc.1 --dry-run --json
    """
    from policyctl.services.cards.citing import cite as service

    control = call.control()
    done = service(control, folder, model=model, release=release, dry_run=dry_run)
    figures = ", ".join(f"{count} of {section}" for section, count in done.figures.items() if count)
    verb = "Would write" if dry_run else "Wrote"
    call.data(to_json(done), words=f"{verb} into {done.card}: {figures}; evidence: {', '.join(done.evidence)}")


@group.command()
@options.command("repository")
def bom(
    call: Call,
    model: options.Model,
    release: options.Release,
    output: Target = None,
) -> None:
    """Write the bill of materials of a release: CycloneDX 1.6, which is JSON with or without --json.

    Examples:
        policyctl card bom walker 1.0.0 -o walker.cdx.json
    """
    from policyctl.services.cards import full_card as service

    control = call.control()
    _write(call, service.bill_of_materials(control, model=model, release=release), output)


def _write(call: Call, text: str, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    from policyctl.adapters.files import write_atomically

    write_atomically(path, text.encode())
    call.say(f"Wrote {path}.")
