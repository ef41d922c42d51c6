"""Commands about numbers of releases: release next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyctl.cli import options
from policyctl.cli.output import Output

_HELP = """Say which number a release may have.

Example:

    policyctl release next walker build/walker
"""


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help=_HELP, rich_markup_mode="markdown")
    group.callback()(_root)
    group.command(name="next")(next_)
    app.add_typer(group, name="release")


def _root() -> None:
    """Keep `next` a command of its own, though it is the only one."""


def next_(
    model: options.Model,
    source: Annotated[Path, typer.Argument(help="A folder that export wrote.", show_default=False)],
    after: Annotated[
        str | None,
        typer.Option(
            "--after", help="The release to follow, or what selects it (~1.2.0). [default: latest]", show_default=False
        ),
    ] = None,
    prerelease: Annotated[
        str, typer.Option("--pre", help="Propose a pre-release of this name, for example rc.", show_default=False)
    ] = "",
    repository: options.RepositoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Propose the number under which an export can be published, with the reasons. Nothing is changed.

    Its contract is compared with that of the highest release (or of --after,
    for a patch of an older line), and each difference is listed with the bump
    that it needs.

    Examples:

        policyctl release next walker build/walker

        policyctl release next walker build/walker --after ~1.2.0

        policyctl release next walker build/walker --pre rc --json
    """
    from policyctl.services import numbers as service

    output = Output(as_json)
    control = options.control_of(options.read_settings(repository), output)
    found = service.next_release(control, source, model=model, after=after, prerelease=prerelease)
    proposal = found.proposal
    output.data(found.to_json(), words=proposal.release)
    if proposal.after is None:
        output.say(f"No release of {model} is published that it could be compared with.")
    elif not proposal.differences:
        output.say(f"Its contract is that of {proposal.after}: {proposal.needs} will do.")
    else:
        output.say(f"Against {proposal.after} it needs {proposal.needs}:")
        for difference in proposal.differences:
            output.say(f"  {difference.words}")
    output.say(f"Next: policyctl publish {source} --model {model} --release {proposal.release}")
